"""Projected gradient descent: the survey's sections 3 and 5."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastadv import ops
from fastadv._checks import Bounds, Norm, norm_number
from fastadv.attacks.attack import (
    AttackResult,
    Model,
    OnStep,
    Progress,
    check_counts,
    check_fields,
    check_fraction,
    check_gradient,
    check_length,
    check_seed,
    distances,
    forward,
    key_of,
    nothing_found,
    pose,
    refuse_class,
    undisturbed,
)
from fastadv.attacks.gradients import Autograd, Estimator, Gradient
from fastadv.attacks.losses import LOSSES, Loss, SampleLoss
from fastadv.attacks.pgd_search import Search
from fastadv.attacks.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent on a loss inside the intersection of an lp ball and the box.

    Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018), eq. (2); the
    survey's section 5 ("steepest-descent PGD" is rule="steepest", its plain PGD rule="gradient").

    Args:
        eps: radius of the ball in the units of x, >= 0; float or [B]. For norm 0 the number of elements (or
            pixels) that may change: whole, if it is one for all; those of [B] are rounded down.
        norm: 0, 1 <= norm <= inf, or "linf", "l2", "l1", "l0".
        steps: gradient evaluations per restart, >= 1.
        step_size: length of a step in the units of x (float or [B]), or a schedule
            (step, steps) -> fraction of eps; None is `StepDecay()`. For norm 0 the fraction is of
            sqrt(eps) * (upper - lower), the l2 length of the longest change (bounds=None: of sqrt(eps)).
        rule: "steepest" or "gradient"; see `fastadv.ops.pgd_step`. For norms other than 2 and inf some
            "steepest" steps go along the gradient instead, and further: `attacks.lp_steps` says why.
        spread: norm 1 only: the fraction of a sample's elements, in [0, 1], that share a step at least (one
            element does in any case), or a schedule (step, steps) -> fraction; None is `SpreadDecay()`.
        pixels: norm 0 only: eps counts pixels of [B, C, ...] samples; elements of vectors are pixels.
        loss: "ce", "margin", "dlr", "logit_gap", a callable, or a `SampleLoss` such as `LogitMatching`; see
            `fastadv.attacks.losses`.
        gradient: where gradients come from: `Autograd()`, `EOT`, `Evolution`, or your own `Gradient` or
            `Estimator`; see `fastadv.attacks.gradients`.
        random_start: start uniformly in the ball rather than at x; None: unless the norm is 0, whose ball
            has no uniform points.
        restarts: how often to start, >= 1; from the second on always at random, so 1 for norm 0. Each sample
            keeps its best.
        bounds: (lower, upper) of every element of x, or None.
        early_stop: True (evaluation) returns the first iterate that succeeds and takes the sample out of
            the work; a sample that is solved to begin with comes back unchanged. False (training, loss
            curves) pushes every sample to the end.
        keep: what becomes of samples that were pushed to the end. "best": the iterate of highest loss comes
            back, the last iterate included. "last": the last iterate, as Madry et al. train on it. `run`
            evaluates it; the call, which returns x_adv alone, does without that. One restart only.
        autocast: run the model, and nothing else, under torch.autocast with this dtype.
        chunk: at most so many samples at a time; None is all.
        seed: of random starts and estimated gradients: an int in [0, 2^63) (every call draws the same), or a
            torch.Generator from which each call draws a new one. The global generator is never touched.

    Raises:
        TypeError: a class is given where an instance of it is meant, or `gradient` is no gradient.
        ValueError: a field is out of range.
    """

    eps: float | Tensor
    norm: Norm = math.inf
    steps: int = 40
    step_size: float | Tensor | Schedule | None = None
    rule: ops.Rule = "steepest"
    spread: float | Schedule | None = None
    pixels: bool = False
    loss: str | Loss | SampleLoss = "ce"
    gradient: Gradient | Estimator = Autograd()
    random_start: bool | None = None
    restarts: int = 1
    bounds: Bounds = (0.0, 1.0)
    early_stop: bool = True
    keep: Literal["best", "last"] = "best"
    autocast: torch.dtype | None = None
    chunk: int | None = None
    seed: int | torch.Generator = 0

    def __post_init__(self) -> None:
        """Refuse fields out of range."""
        name = type(self).__name__
        for field in ("step_size", "loss"):
            refuse_class(name, field, getattr(self, field))
        check_fields(name, self.eps, self.norm, self.bounds, self.autocast)
        if self.step_size is not None and not callable(self.step_size):
            check_length(name, "step_size", self.step_size)
        p = norm_number(self.norm)
        if p == 0 and (self.random_start or self.restarts > 1):
            field = "random_start" if self.random_start else "restarts"
            raise ValueError(
                f"{name}: {field} must be left alone for norm 0, whose ball has no uniform points to start "
                f"from, got {getattr(self, field)!r}"
            )
        if self.spread is not None and not callable(self.spread):
            check_fraction(name, "spread", self.spread)
        if self.pixels and p != 0:
            raise ValueError(f"{name}: pixels is for norm 0, got norm {self.norm!r}")
        if self.rule not in ("steepest", "gradient"):
            raise ValueError(f"{name}: rule must be 'steepest' or 'gradient', got {self.rule!r}")
        if self.keep not in ("best", "last"):
            raise ValueError(f"{name}: keep must be 'best' or 'last', got {self.keep!r}")
        if self.keep == "last" and self.restarts > 1:
            raise ValueError(f"{name}: keep must be 'best' with several restarts, got 'last'")
        check_gradient(name, self.gradient)
        if not callable(self.loss) and self.loss not in LOSSES:
            raise ValueError(
                f"{name}: loss must be a callable or one of {', '.join(LOSSES)}, got {self.loss!r}"
            )
        check_counts(name, steps=self.steps, restarts=self.restarts, chunk=self.chunk)
        check_seed(name, self.seed)

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        target: Tensor | int | None = None,
        ids: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """The adversarial samples alone; see `run`."""
        return self._attack(model, x, y, target, ids, on_step, judge=self.keep == "best").x_adv

    def run(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        target: Tensor | int | None = None,
        ids: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> AttackResult:
        """Attack a batch.

        Args:
            model: [B, ...] within bounds -> logits [B, K]. Attacked in eval mode; modes, gradients,
                parameters and statistics are left as they were.
            x: [B, ...] floating point, finite, within bounds, of any shape. For float16 and bfloat16 the
                iterates are kept in float32, and the model sees them rounded into the ball.
            y: [B] int64 true labels; None: the model's own predictions.
            target: [B] int64 or an int: attack towards these classes, not just away from y.
            ids: [B] int64: which random numbers each sample gets; default 0 .. B-1. With them a sample's
                result does not depend on its batch.
            on_step: called with (steps done, steps in all) after each step.

        Returns:
            An `AttackResult`.

        Raises:
            TypeError: wrong dtypes.
            ValueError: wrong shapes or devices; x not finite or outside bounds; labels that are no classes;
                model output that is not [B, K] or not finite, or through which no gradient reaches x.
        """
        result = self._attack(model, x, y, target, ids, on_step, judge=True)
        result.distance.copy_(distances(result.x_adv, x.detach(), self.norm, self.pixels))
        return result

    def _attack(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None,
        target: Tensor | int | None,
        ids: Tensor | None,
        on_step: OnStep | None,
        *,
        judge: bool,
    ) -> AttackResult:
        """`run` without distances, and unless it is to `judge`, without loss and success of last iterates."""
        with undisturbed(model):
            problem = pose(
                type(self).__name__, x, y, target, ids, self.bounds, eps=self.eps, step_size=self.step_size
            )
            if isinstance(self.loss, SampleLoss):
                self.loss.check(len(x))
            result = nothing_found(problem)
            key = key_of(self.seed)
            run_model = forward(type(self).__name__, model, self.autocast)
            chunks = range(0, len(x), self.chunk or max(1, len(x)))
            for number, start in enumerate(chunks):
                part = problem[start : start + chunks.step]
                search = Search(self, run_model, part, problem, key, result, judge)
                search.run(Progress(on_step, number, len(chunks), self.restarts * self.steps))
        return result
