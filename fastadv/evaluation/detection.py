"""How well a detector tells attacked samples from clean ones, and which noise it should use."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastadv.defenses import OddsAreOdd
from fastadv.defenses.odds_statistics import held_out_cutoff
from fastadv.ops import NoiseKind

from .statistics import Rate

OnStep = Callable[[int, int], None]

KINDS: tuple[NoiseKind, ...] = ("normal", "uniform", "sign")
SCALES = (0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Roc:
    """The receiver operating characteristic of a score: what each cutoff costs and brings.

    Attributes:
        fpr, tpr: [N] float64, the parts of the clean and of the attacked samples above each cutoff, from
            (0, 0) to (1, 1).
    """

    fpr: Tensor
    tpr: Tensor

    @property
    def area(self) -> float:
        """The probability that an attacked sample scores above a clean one, ties counting half."""
        return torch.trapezoid(self.tpr, self.fpr).item()

    def tpr_at(self, fpr: float) -> float:
        """The true-positive rate of the lowest cutoff that keeps the false-positive rate at or below fpr."""
        return self.tpr[self.fpr <= fpr].max().item()


class Samples(NamedTuple):
    """What a detector has to tell apart.

    Attributes:
        clean: [N, ...].
        attacked: [M, ...], adversarial samples; those that fool nobody are better left out.
    """

    clean: Tensor
    attacked: Tensor


@dataclass(frozen=True)
class Candidate:
    """A noise that was tried.

    Attributes:
        noise: kind and scale.
        roc: on the samples that the choice is made by.
        tpr: there, at the false-positive rate that was asked for.
    """

    noise: tuple[NoiseKind, float]
    roc: Roc
    tpr: float


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Attributes:
        fpr: the false-positive rate that was asked for.
        candidates: in the order of kinds and scales.
        chosen: one of them.
        detector: with that noise, fitted, and with its cutoff set by the clean samples of `choose`.
        roc: on the samples of `judge`, which had no part in the choice or the cutoff.
        false_positives, true_positives: there, at that cutoff.
    """

    fpr: float
    candidates: list[Candidate]
    chosen: Candidate
    detector: OddsAreOdd
    roc: Roc
    false_positives: Rate
    true_positives: Rate


def roc(clean: Tensor, attacked: Tensor) -> Roc:
    """The curve of scores [N] of clean and [M] of attacked samples, infinite ones included.

    Raises:
        ValueError: there are none of one kind, or one is NaN.
    """
    for name, scores in (("clean", clean), ("attacked", attacked)):
        if scores.dim() != 1 or len(scores) == 0 or scores.isnan().any():
            raise ValueError(f"roc: {name} must be at least one score and none NaN, got {list(scores.shape)}")
    cutoffs = torch.cat((clean, attacked, clean.new_tensor([math.inf]))).unique().flip(0)

    def above(scores: Tensor) -> Tensor:
        beyond = len(scores) - torch.searchsorted(scores.sort().values, cutoffs, right=True)
        return torch.cat(
            (beyond.double() / len(scores), torch.ones(1, dtype=torch.float64, device=scores.device))
        )

    return Roc(above(clean), above(attacked))


def tune(
    model: nn.Module,
    fit: Tensor,
    choose: Samples,
    judge: Samples,
    *,
    kinds: Sequence[NoiseKind] = KINDS,
    scales: Sequence[float] = SCALES,
    fpr: float = 0.01,
    batch_size: int = 100,
    on_step: OnStep = lambda step, steps: None,
    **settings: Any,
) -> Tuning:
    """Try kinds and scales of noise for `OddsAreOdd`, and measure the best of them on other samples.

    Chosen is the noise with the highest true-positive rate at fpr, of equals the one with the largest area.
    That rate is the best of many, so it flatters: `Tuning.true_positives` is what to report. The three sets
    of samples must be disjoint, and attacked samples must not come from clean ones of another set.

    Args:
        model: [B, ...] -> logits [B, K].
        fit: [N, ...] clean samples for the statistics.
        choose: held-out samples to choose by, at least 1 / fpr - 1 of them clean.
        judge: other held-out samples to measure the chosen noise on.
        kinds, scales: every pair of them is tried.
        fpr: in (0, 1).
        batch_size: samples at a time.
        on_step: called with (candidates done, all candidates).
        settings: arguments of `OddsAreOdd`, such as draws, bounds, chunk or seed.

    Raises:
        TypeError, ValueError: as `OddsAreOdd` and its methods, or there is nothing to try.
    """
    noises = list(product(kinds, scales))
    if not noises:
        raise ValueError(f"tune: kinds and scales must not be empty, got {list(kinds)} and {list(scales)}")
    # Every setting is checked before the first costs time.
    held_out_cutoff(torch.zeros(len(choose.clean)), fpr)
    for name, samples in (("fit", [fit]), ("choose", choose), ("judge", judge)):
        if min(map(len, samples)) == 0:
            raise ValueError(f"tune: {name} must have at least one sample of each sort, got none")
    detectors = [OddsAreOdd(model, [noise], **settings) for noise in noises]
    candidates = []
    for number, (noise, detector) in enumerate(zip(noises, detectors, strict=True)):
        with warnings.catch_warnings():
            if number > 0:  # which classes are rare does not depend on the noise: once is enough
                warnings.simplefilter("ignore", UserWarning)
            detector.fit(fit.split(batch_size), quiet=True)
        detector.calibrate(choose.clean.split(batch_size), fpr=fpr, quiet=True)
        curve = roc(detector.held_out, _scores(detector, choose.attacked, batch_size))
        candidates.append(Candidate(noise, curve, curve.tpr_at(fpr)))
        on_step(number + 1, len(noises))
    best = max(range(len(noises)), key=lambda n: (candidates[n].tpr, candidates[n].roc.area))
    detector = detectors[best]
    clean, attacked = (_scores(detector, samples, batch_size) for samples in judge)
    return Tuning(
        fpr,
        candidates,
        candidates[best],
        detector,
        roc(clean, attacked),
        Rate(int((clean > detector.cutoff).sum()), len(clean)),
        Rate(int((attacked > detector.cutoff).sum()), len(attacked)),
    )


def _scores(detector: OddsAreOdd, samples: Tensor, batch_size: int) -> Tensor:
    return torch.cat([detector.score(x) for x in samples.split(batch_size)])
