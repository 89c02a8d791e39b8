"""What the detectors of examples/odds.py say of images: how they are asked, and how results.json has it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadv import OddsAreOdd, ops
from fastadv.evaluation.statistics import Rate
from kept_nets import predict
from odds_attacks import BATCH


class Variant(NamedTuple):
    """A way to test: noisy copies clamped to the box or not, scores by z or by |z|."""

    clipped: bool
    two_sided: bool

    def __str__(self) -> str:
        """As it is called in results.json and tables."""
        return f"{'clipped' if self.clipped else 'unclipped'}, {'two' if self.two_sided else 'one'}-sided"


VARIANTS = [Variant(clipped, two_sided) for clipped in (True, False) for two_sided in (False, True)]
MAIN = VARIANTS[0]
"""The authors' own."""


class Scored(NamedTuple):
    """What a detector says of the samples that an attack made.

    Attributes:
        success: [n] bool: right before the attack, and wrong after it inside the ball; of clean samples all.
        predicted: [n] int64, the model's answers.
        y: [n] int64, the truth.
        score: [n] float64.
        corrected: [n] int64, the answers were all of them flagged.
        kept: [n] float64, the part of noisy copies to which the model gives the same answer.
    """

    success: Tensor
    predicted: Tensor
    y: Tensor
    score: Tensor
    corrected: Tensor
    kept: Tensor

    def positives(self) -> Tensor:
        """[successes] float64: the scores that should be above the cutoff."""
        return self.score[self.success]

    def survival(self) -> float:
        """The part of noisy copies of successes that keep their answer; there must be a success."""
        return float(self.kept[self.success].mean())

    def flagged(self, cutoff: float) -> Rate:
        """The positives above the cutoff; there must be at least one."""
        scores = self.positives()
        return Rate(int((scores > cutoff).sum()), len(scores))

    def unseen(self, cutoff: float) -> Rate:
        """Successes that are not flagged, of all samples that were attacked."""
        return Rate(int((self.success & (self.score <= cutoff)).sum()), len(self.score))

    def accuracy(self, cutoff: float | None) -> Rate:
        """Right answers among all samples, corrected where flagged; None: never corrected."""
        answers = self.predicted
        if cutoff is not None:
            answers = torch.where(self.score > cutoff, self.corrected, answers)
        return Rate(int((answers == self.y).sum()), len(self.y))


def verdicts(
    detectors: Mapping[bool, OddsAreOdd], x: Tensor, success: Tensor, predicted: Tensor, kept_draws: int
) -> dict[str, Any]:
    """What detectors, by whether their noise is clamped to the box, say of images, as results.json has it.

    Args:
        detectors: around the same model.
        x: the images.
        success, predicted: as in `Scored`.
        kept_draws: so many noisy copies show how many leave the answer as it is.
    """
    return {
        "success": "".join(str(int(flag)) for flag in success),
        "predicted": digits(predicted),
        **{
            on_box(clipped): scores(detector, x) | {"kept": kept(detector, x, predicted, kept_draws)}
            for clipped, detector in detectors.items()
        },
    }


def read_verdicts(result: Mapping[str, Any], variant: Variant, y: Tensor, kept_draws: int) -> Scored:
    """What `verdicts` returned, as one variant sees it; `y` has the labels of its images first."""
    side = result[on_box(variant.clipped)]
    predicted = numbers(result["predicted"])
    return Scored(
        numbers(result["success"]).bool(),
        predicted,
        y[: len(predicted)],
        torch.tensor(
            [float(value) for value in side["two" if variant.two_sided else "one"].split()]
        ).double(),
        numbers(side["corrected"]),
        torch.tensor([int(count) for count in side["kept"].split()]).double() / kept_draws,
    )


def on_box(clipped: bool) -> str:
    """As noise that is clamped to the box, or not, is called in results.json."""
    return "clipped" if clipped else "unclipped"


def scores(detector: OddsAreOdd, x: Tensor) -> dict[str, str]:
    """Scores, one-sided and two-sided, and the answers were all flagged, as text: short in JSON."""
    detector.cutoff = -math.inf
    found: dict[str, list[str]] = {"one": [], "two": []}
    corrected = []
    for part in x.split(BATCH):
        gaps = detector.gaps(part)
        for detector.two_sided, side in ((True, "two"), (False, "one")):
            verdict = detector.judge(gaps)
            found[side] += [f"{score:.5g}" for score in verdict.score.tolist()]
        corrected.append(verdict.label)
    return {
        **{side: " ".join(values) for side, values in found.items()},
        "corrected": digits(torch.cat(corrected)),
    }


def kept(detector: OddsAreOdd, x: Tensor, answers: Tensor, draws: int) -> str:
    """How many of so many noisy copies of each image the model answers like the image itself."""
    ((kind, scale),) = detector.noise
    counts = torch.zeros(len(x), dtype=torch.int64)
    for draw in range(draws):
        # Not the detector's own draws, which begin at 0.
        copies = ops.add_noise(
            x, 1, kind=kind, scale=scale, bounds=detector.bounds, seed=detector.seed, first_draw=2**30 + draw
        )
        counts += predict(detector.model, copies[0], BATCH) == answers
    return " ".join(map(str, counts.tolist()))


def digits(labels: Tensor) -> str:
    """[n] int64 in 0 .. 9 as n characters."""
    return "".join(map(str, labels.tolist()))


def numbers(text: str) -> Tensor:
    """The other way round."""
    return torch.tensor([int(character) for character in text])
