"""The attack on "The odds are odd" that knows the test: its statistic, differentiated through the noise."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastadv import ops
from fastadv._checks import Bounds, compute_dtype, is_integer, is_real
from fastadv.attacks.gradients import Estimator, Forward, Objective, add_in_order, backpropagated, chunks
from fastadv.attacks.randomness import Step, mix


class NoiseTest(Protocol):
    """What `OddsEvasion` needs to know of the test; `fastadv.OddsAreOdd` has it.

    Attributes:
        noise: kinds and scales.
        draws: copies of a sample for each kind.
        bounds: to which copies are clamped, or None.
        two_sided: whether |z| counts.
        cutoff: the z-score above which samples are flagged.
        mean, std: [kinds, K, K] float64 by kind, predicted class and class; NaN in std where nothing is
            known.
    """

    noise: Sequence[tuple[ops.NoiseKind, float]]
    draws: int
    bounds: Bounds
    two_sided: bool
    cutoff: float
    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class OddsEvasion(Estimator):
    """Gradients of the attack's loss together with the statistic of `OddsAreOdd`.

    Maximised is loss(x) - weight * sum over i != t of max(0, z_i - (cutoff - slack)), where the z_i are those
    of the detector for the class t that the model gives x: differentiated through the logits of x and of
    its noisy copies. Iterates are compared by that value; one counts as a success if it is misclassified
    (or at its target) and no z_i is above cutoff - slack / 2. So with `early_stop` the first undetected
    success comes back; without it, confidence is bought with z-scores. The noise is drawn anew in every step:
    the attack does not know the detector's seed. Attack the detector or its model, it is the same:

        PGD(eps=0.2, loss="margin", gradient=OddsEvasion(detector, draws=32))(model, x, y)

    Args:
        detector: a fitted `fastadv.OddsAreOdd`, or what has its attributes.
        draws: copies of a sample for each kind of noise and step, at least 1; None is the detector's own.
        weight: of the statistic beside the loss, in its units, > 0.
        slack: by how much the attack keeps clear of the cutoff, in standard deviations, >= 0: fewer or other
            draws give other z-scores.
        chunk: at most so many draws in one forward; None is all. With more than one chunk the mean gaps are
            computed first, without gradients: kinds * draws queries more per step.

    Raises:
        ValueError: a field is out of range, or the detector is not fitted; on use, the model returns another
            number of logits than the detector was fitted to.
    """

    detector: NoiseTest
    draws: int | None = None
    weight: float = 1.0
    slack: float = 1.0
    chunk: int | None = None

    def __post_init__(self) -> None:
        """Refuse fields out of range."""
        if self.detector.mean.numel() == 0:
            raise ValueError("OddsEvasion: detector must be fitted, it knows no clean samples yet")
        for name in ("draws", "chunk"):
            value: int | None = getattr(self, name)
            if value is not None and not (is_integer(value) and value >= 1):
                raise ValueError(
                    f"OddsEvasion: {name} must be an integer of at least 1 or None, got {value!r}"
                )
        if not is_real(self.weight) or not 0 < float(self.weight) < math.inf:
            raise ValueError(f"OddsEvasion: weight must be positive and finite, got {self.weight!r}")
        if not is_real(self.slack) or not 0 <= float(self.slack) < math.inf:
            raise ValueError(f"OddsEvasion: slack must be finite and at least 0, got {self.slack!r}")

    def judge(
        self, model: Forward, x: Tensor, logits: Tensor, values: Tensor, step: Step
    ) -> tuple[Tensor, Tensor | None]:
        """Values with the statistic in them, and which samples keep clear of the cutoff."""
        answers = (self._answers(model, x, step, *part)[1] for part in self._parts())
        excess = self._excess(logits, self._gaps(logits, answers))
        return values - self.weight * excess.sum(1).to(values), excess.amax(1) <= self.slack / 2

    def estimate(self, model: Forward, x: Tensor, objective: Objective, step: Step) -> Tensor:
        """The gradient [B, ...] at x in the compute dtype; ValueError where none reaches x."""
        x = x.detach().requires_grad_()
        logits, parts = model(x), self._parts()
        if self.chunk is None:
            # All of it at once: the answers that the slopes are found from are differentiated themselves.
            answers = [self._answers(model, x, step, *part) for part in parts]
            gaps = self._gaps(logits, (noisy for _, noisy in answers))
        else:
            with torch.no_grad():
                gaps = self._gaps(logits, (self._answers(model, x, step, *part)[1] for part in parts))
        slopes = self._slopes(logits, gaps)
        total = backpropagated(objective(logits) - (logits * slopes.sum(0)).sum(1), x)
        total = total.to(compute_dtype(x.dtype))
        for number, (kind, draws) in enumerate(parts):
            if self.chunk is None:
                copies, noisy = answers[number]
            else:
                copies, noisy = self._answers(model, x, step, kind, draws)
            gradient = backpropagated(noisy * (slopes[kind] / self._draws), copies)
            add_in_order(total, torch.where(self._movable(copies), gradient, 0))
        return total

    @property
    def _draws(self) -> int:
        return self.detector.draws if self.draws is None else self.draws

    def _parts(self) -> list[tuple[int, range]]:
        """Kinds of noise, and draws of them: what goes into one forward."""
        return [
            (kind, part)
            for kind in range(len(self.detector.noise))
            for part in chunks(self._draws, self.chunk)
        ]

    def _answers(
        self, model: Forward, x: Tensor, step: Step, kind: int, draws: range
    ) -> tuple[Tensor, Tensor]:
        """Noisy copies [n, B, ...] of x and, differentiable in these, the model's logits [n, B, K]."""
        name, scale = self.detector.noise[kind]
        copies = ops.add_noise(
            x.detach(),
            len(draws),
            kind=name,
            scale=scale,
            bounds=self.detector.bounds,
            seed=(mix(step.key, step.number), kind),
            ids=step.ids,
            first_draw=draws.start,
        ).requires_grad_()
        return copies, model(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])

    def _movable(self, copies: Tensor) -> Tensor:
        """Which elements of copies move with x: those that the box did not cut off."""
        lower, upper = self.detector.bounds or (-math.inf, math.inf)
        return (copies > lower) & (copies < upper)

    def _gaps(self, logits: Tensor, answers: Iterable[Tensor]) -> Tensor:
        """[kinds, B, K] float64: the mean gaps, from the noisy logits of all parts."""
        sums: dict[int, tuple[Tensor, Tensor]] = {}
        for (kind, _), noisy in zip(self._parts(), answers, strict=True):
            sums[kind] = ops.gap_moments(logits.detach(), noisy.detach(), sums.get(kind))
        return torch.stack([total for total, _ in sums.values()]) / self._draws

    def _excess(self, logits: Tensor, gaps: Tensor) -> Tensor:
        """[B, K] float64: by how much each z-score exceeds cutoff - slack; differentiable in the gaps."""
        if logits.shape[1] != self.detector.mean.shape[2]:
            raise ValueError(
                f"OddsEvasion: model must return logits [{len(logits)}, {self.detector.mean.shape[2]}] as in "
                f"the detector's fit, got {list(logits.shape)}"
            )
        predicted = logits.argmax(1)
        mean, std = self.detector.mean[:, predicted], self.detector.std[:, predicted]
        known = ~std.isnan().any(0)  # never the predicted class itself
        z = ((gaps - mean) / std.nan_to_num(nan=math.inf)).mean(0)
        z = z.abs() if self.detector.two_sided else z
        return (z - (self.detector.cutoff - self.slack)).relu() * known

    def _slopes(self, logits: Tensor, gaps: Tensor) -> Tensor:
        """[kinds, B, K]: the slope of -weight * excess in each noisy logit, for the mean over draws.

        That of the clean logits is the opposite, over all kinds: a gap is a difference.
        """
        gaps = gaps.requires_grad_()
        (slopes,) = torch.autograd.grad(-self.weight * self._excess(logits, gaps).sum(), gaps)
        of_predicted = -slopes.sum(2, keepdim=True)
        predicted = logits.argmax(1)[:, None].expand(len(slopes), -1, 1)
        return slopes.scatter_add(2, predicted, of_predicted).to(logits)
