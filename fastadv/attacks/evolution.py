"""Natural evolution strategies: gradients from evaluations alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv._checks import compute_dtype, is_integer, is_real
from fastadv.attacks.attack import refuse_class
from fastadv.attacks.gradients import Estimator, Forward, Objective, add_in_order, chunks
from fastadv.attacks.randomness import Step
from fastadv.attacks.schedules import SampleSchedule


@dataclass(frozen=True)
class Evolution(Estimator):
    """The gradient of the loss smoothed by a Gaussian, estimated from evaluations: no backpropagation.

    Wierstra et al., "Natural evolution strategies" (JMLR 2014); Ilyas, Engstrom, Athalye, Lin, "Black-box
    adversarial attacks with limited queries and information" (ICML 2018). With u ~ N(0, I), it is
    1 / (n sigma) times the sum over n / 2 pairs of (l(x + sigma u) - l(x - sigma u)) u, or, without pairs,
    the sum over n draws of l(x + sigma u) u. Its mean is the exact gradient of E[l(x + sigma u)]: that of l
    itself if l is linear or quadratic. The model need not be differentiable, nor have a useful derivative:
    this is what broke k-WTA (`StagedSamples`).

    The noisy copies are not clipped to the attack's bounds, as in the published attack: clipping would bias
    the estimate where x is at a bound. Where a model must not see such values, attack
    `lambda x: model(x.clamp(0, 1))`. A copy whose loss is not finite, and the other of its pair, adds nothing
    to the sum: a model that answers with NaN here and there is attacked by what it answers elsewhere.

    Args:
        sigma: standard deviation of the noise in the units of x, > 0; the published one is 8/255.
        samples: evaluations of the model per sample and step, even if antithetic; or a schedule
            (step, steps) -> evaluations such as `StagedSamples()`.
        antithetic: evaluate in pairs, x + sigma u and x - sigma u: all that is even about the loss cancels.
        chunk: at most so many noisy copies of each sample in one forward, at least 2 if antithetic; None is
            all. It changes no result, bit for bit, if it changes no bits of the model's.

    Raises:
        TypeError: samples is a class, such as `StagedSamples` for `StagedSamples()`.
        ValueError: a field is out of range.
    """

    sigma: float
    samples: int | SampleSchedule
    antithetic: bool = True
    chunk: int | None = 50

    def __post_init__(self) -> None:
        """Refuse fields out of range."""
        if not is_real(self.sigma) or not 0 < float(self.sigma) < math.inf:
            raise ValueError(f"Evolution: sigma must be positive and finite, got {self.sigma!r}")
        refuse_class("Evolution", "samples", self.samples)
        if not callable(self.samples):
            self._check_samples(self.samples)
        least = 2 if self.antithetic else 1
        if self.chunk is not None and (not is_integer(self.chunk) or self.chunk < least):
            raise ValueError(
                f"Evolution: chunk must be an integer of at least {least} or None, got {self.chunk!r}"
            )

    def estimate(self, model: Forward, x: Tensor, objective: Objective, step: Step) -> Tensor:
        """The gradient [B, ...] at x in the compute dtype; ValueError for a schedule's bad number."""
        samples = self.samples
        if callable(samples):
            samples = samples(step.number, step.steps)
            self._check_samples(samples)
        signs = (1, -1) if self.antithetic else (1,)
        centre = x.to(compute_dtype(x.dtype))
        total = torch.zeros_like(centre)
        chunk = None if self.chunk is None else self.chunk // len(signs)
        with torch.no_grad():
            for part in chunks(samples // len(signs), chunk):
                noise = step.randomness(part).normal(*x.shape[1:], dtype=centre.dtype)
                noise = noise.unflatten(0, (len(part), len(x)))
                copies = torch.cat([(centre + sign * self.sigma * noise).to(x.dtype) for sign in signs])
                values = objective(model(copies.flatten(0, 1))).unflatten(0, (len(signs), *noise.shape[:2]))
                weights = values[0] - values[1] if self.antithetic else values[0]
                weights = weights.where(weights.isfinite(), 0)
                add_in_order(total, noise.mul_(weights.reshape(*noise.shape[:2], *[1] * (x.dim() - 1))))
        return total.div_(samples * self.sigma)

    def _check_samples(self, samples: int) -> None:
        if not is_integer(samples) or samples < 1 or (self.antithetic and samples % 2):
            wanted = "an even integer of at least 2" if self.antithetic else "an integer of at least 1"
            raise ValueError(f"Evolution: samples must be {wanted} or a schedule, got {samples!r}")
