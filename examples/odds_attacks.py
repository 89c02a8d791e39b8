"""The settings of examples/odds.py, and the attacks that models and detectors are put to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastadv import EOT, FGSM, PGD, CarliniWagner, LogitMatching, OddsAreOdd, OddsEvasion
from fastadv.attacks import transforms
from fastadv.attacks.losses import logits_of_others
from fastadv.ops import NoiseKind

BATCH = 100
CLEAN = "clean"


@dataclass(frozen=True)
class Settings:
    """What all results depend on. Distances and scales are in the units of images in [0, 1].

    Attributes:
        eps: of the linf balls of PGD, the largest last; that of the other attacks is `at`.
        at: one of `eps`.
        fit_images, held_out_images, test_images: the statistics are of the first, thresholds of the second,
            everything reported of the third.
        draws: of the detectors.
        steps: of PGD; logit matching has `matching_steps`.
        eot_images, eot_steps, eot_draws: logit matching averaged over noise, which costs more.
        evasion_images, evasion_steps, evasion_draws: OddsEvasion, which costs most.
        cw_images, cw_steps, cw_search_steps: C&W, which costs much as well.
        cw_confidence: of its second line; the first has 0.
        kinds, scales: of noise, every pair of them tried.
        tuning_images: so many fit each noise, half as many choose it, and half as many judge what was chosen.
        tuning_draws: for this.
        fpr: the false-positive rates that are asked for; noise is chosen by the first, attacks that know the
            detector evade at the last.
        kept_draws: of a detector's noise, to see how many leave the answer as it is.
        splits: so many random divisions of all clean images show how often cutoffs keep their promise.
        correction_images: attacked to learn the correction.
        train_images, epochs: how the net for Fashion-MNIST is trained.
    """

    eps: tuple[float, ...] = (0.1, 0.2, 0.3)
    at: float = 0.2
    fit_images: int = 3000
    held_out_images: int = 1000
    test_images: int = 1000
    draws: int = 64
    steps: int = 40
    matching_steps: int = 100
    eot_images: int = 100
    eot_steps: int = 100
    eot_draws: int = 10
    evasion_images: int = 200
    evasion_steps: int = 40
    evasion_draws: int = 16
    cw_images: int = 300
    cw_steps: int = 200
    cw_search_steps: int = 4
    cw_confidence: float = 5.0
    kinds: tuple[NoiseKind, ...] = ("normal", "uniform", "sign")
    scales: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    tuning_images: int = 400
    tuning_draws: int = 16
    fpr: tuple[float, ...] = (0.01, 0.05)
    kept_draws: int = 16
    splits: int = 200
    correction_images: int = 500
    train_images: int = 10_000
    epochs: int = 3
    seed: int = 0


QUICK = Settings(
    fit_images=200,
    held_out_images=100,
    test_images=40,
    draws=2,
    steps=3,
    matching_steps=4,
    eot_images=10,
    eot_steps=2,
    eot_draws=2,
    evasion_images=10,
    evasion_steps=2,
    evasion_draws=2,
    cw_images=10,
    cw_steps=10,
    cw_search_steps=1,
    kinds=("normal",),
    scales=(0.01, 0.1),
    tuning_images=40,
    tuning_draws=1,
    fpr=(0.1, 0.2),
    kept_draws=2,
    splits=3,
    correction_images=20,
    train_images=100,
    epochs=1,
)
"""Every part of the study on next to nothing, in seconds."""


class Row(NamedTuple):
    """An attack as a line of the table.

    Attributes:
        make: (model, detector, x) -> attack, a callable (model, x, y) -> x_adv.
        knows: what the attack knows of the detector, and so what it is made anew for: "nothing", its "noise"
            (clipped or not), or the whole "detector" (one-sided or two-sided besides).
        eps: of its linf ball; 1 is all of the box.
        images: how many are attacked, the first of those to test on.
        evaluations: about so many forward passes for each, for the time left.
    """

    make: Callable[[nn.Module, OddsAreOdd, Tensor], Callable[..., Tensor]]
    knows: Literal["nothing", "noise", "detector"]
    eps: float
    images: int
    evaluations: float


FGSM_ROW, STOPPING, CW_ROW, CONFIDENT_CW, MATCHING, EOT_MATCHING, EVASION = (
    "FGSM",
    "PGD, stops when it succeeds",
    "C&W l2",
    "C&W l2, confident",
    "logit matching",
    "logit matching + EOT",
    "OddsEvasion",
)


def pgd_name(eps: float) -> str:
    """PGD's name in the table; only with `Settings.at` it is as strong as the other attacks."""
    return f"PGD, eps {eps:g}"


def table_rows(s: Settings) -> dict[str, Row]:
    """The attacks, by the names they have in the table, those that know more of the detector later."""
    pgd = partial(PGD, eps=s.at, early_stop=False, seed=s.seed)

    def matching(model: nn.Module, detector: OddsAreOdd, x: Tensor) -> PGD:
        return pgd(steps=s.matching_steps, loss=of_others(model, x), random_start=False)

    def eot_matching(model: nn.Module, detector: OddsAreOdd, x: Tensor) -> PGD:
        ((kind, scale),) = detector.noise
        noise = transforms.Noise(scale, kind, detector.bounds)
        gradient = EOT(noise, s.eot_draws, clean=True)
        loss = of_others(model, x)
        return pgd(steps=s.eot_steps, loss=loss, gradient=gradient, chunk=BATCH, random_start=False)

    def evasion(model: nn.Module, detector: OddsAreOdd, x: Tensor) -> PGD:
        gradient = OddsEvasion(detector, draws=s.evasion_draws)
        return pgd(steps=s.evasion_steps, loss="margin", gradient=gradient, early_stop=True)

    cw = partial(
        CarliniWagner, steps=s.cw_steps, search_steps=s.cw_search_steps, lr=0.05, c_init=1.0, seed=s.seed
    )
    n, passes = s.test_images, 3 * s.steps
    cw_passes = 3 * s.cw_steps * s.cw_search_steps
    return {
        CLEAN: Row(lambda *_: FGSM(eps=0.0), "nothing", 0.0, n, 3),
        FGSM_ROW: Row(lambda *_: FGSM(eps=s.at), "nothing", s.at, n, 3),
        **{
            pgd_name(eps): Row(lambda *_, eps=eps: pgd(eps=eps, steps=s.steps), "nothing", eps, n, passes)
            for eps in s.eps
        },
        STOPPING: Row(lambda *_: pgd(steps=s.steps, early_stop=True), "nothing", s.at, n, passes / 4),
        CW_ROW: Row(lambda *_: cw(), "nothing", 1.0, s.cw_images, cw_passes),
        CONFIDENT_CW: Row(lambda *_: cw(confidence=s.cw_confidence), "nothing", 1.0, s.cw_images, cw_passes),
        MATCHING: Row(matching, "nothing", s.at, n, 3 * s.matching_steps),
        EOT_MATCHING: Row(eot_matching, "noise", s.at, s.eot_images, (4 + 3 * s.eot_draws) * s.eot_steps),
        EVASION: Row(
            evasion, "detector", s.at, s.evasion_images, (5 + 4 * s.evasion_draws) * s.evasion_steps
        ),
    }


def of_others(model: nn.Module, x: Tensor) -> LogitMatching:
    """Each sample is to have the logits of the next one with another predicted class."""
    with torch.no_grad():
        return LogitMatching(logits_of_others(model(x)))
