"""Projected gradient descent: the survey's sections 3 and 5."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastadv import ops
from fastadv._checks import Bounds, Norm, compute_dtype, norm_number, norm_value
from fastadv.attacks.attack import (
    AttackResult,
    Model,
    OnStep,
    Problem,
    Progress,
    check_counts,
    check_fields,
    check_fraction,
    check_gradient,
    check_labels,
    check_length,
    check_seed,
    distances,
    forward,
    key_of,
    nothing_found,
    per_row,
    pose,
    refuse_class,
    undisturbed,
)
from fastadv.attacks.gradients import Autograd, Estimator, Forward, Gradient
from fastadv.attacks.losses import LOSSES, Loss, SampleLoss
from fastadv.attacks.lp_steps import gradient_length, of_unit_length
from fastadv.attacks.randomness import Step, mix
from fastadv.attacks.schedules import Schedule, SpreadDecay, StepDecay
from fastadv.reference import round_within


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
        rule: "steepest" or "gradient"; see `fastadv.ops.pgd_step`. For norms other than 0, 1, 2 and inf some
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
                search = _Search(self, run_model, part, problem, key, result, judge)
                search.run(Progress(on_step, number, len(chunks), self.restarts * self.steps))
        return result


class _Search:
    """One chunk on its way: the samples still in work, their iterates, and the best found for each.

    Solved samples are handed to `result` and leave; tensors here always hold the rest only.
    """

    def __init__(
        self,
        attack: PGD,
        model: Forward,
        problem: Problem,
        whole: Problem,
        key: int,
        result: AttackResult,
        judge: bool,
    ) -> None:
        self.attack = attack
        self.name = type(attack).__name__
        self.forward = model
        self.problem = problem
        self.whole = whole
        self.key = key
        self.result = result
        self.judge = judge
        self.loss: Loss | SampleLoss = LOSSES[attack.loss] if isinstance(attack.loss, str) else attack.loss
        self.norm = norm_value(self.name, attack.norm)
        self.random_start = self.norm != 0 if attack.random_start is None else attack.random_start
        default = StepDecay(4.0) if self.norm == 0 else StepDecay()
        self.schedule = default if attack.step_size is None else attack.step_size
        self.dtype = compute_dtype(problem.x.dtype)
        self.queries = 0
        self.best = problem.x.to(self.dtype, copy=attack.keep == "best")
        self.better: Tensor | None = None  # whose iterate is the best so far and not yet in `best`
        self.best_loss = torch.full((len(problem.x),), -math.inf, dtype=self.dtype, device=problem.x.device)
        self.best_logits = torch.full_like(self.best_loss, math.nan)[:, None]  # solves nothing; broadcasts

    def run(self, report: Progress) -> None:
        """Attack until all restarts are done or no sample is left."""
        attack = self.attack
        if self.problem.y is None or (attack.early_stop and self.random_start):
            self.meet_clean_samples()
        for restart in range(attack.restarts):
            z = self.start(restart)
            for step in range(attack.steps):
                if len(z) == 0:
                    break
                z, grad = self.slope(z, restart, step)
                if len(z) > 0:
                    grad, step_size, rule = grad.to(self.dtype), self.step_size(step), attack.rule
                    length = gradient_length(self.norm, step, attack.steps)
                    if rule == "steepest" and length > 0:
                        grad, step_size, rule = (
                            of_unit_length(grad, self.norm),
                            step_size * length,
                            "gradient",
                        )
                    ops.pgd_step_(
                        z,
                        self.problem.x.to(self.dtype),
                        grad,
                        eps=self.problem.of(attack.eps),
                        step_size=step_size,
                        norm=self.norm,
                        bounds=attack.bounds,
                        rule=rule,
                        spread=self.spread(step),
                        pixels=attack.pixels,
                        best=None if self.better is None else self.best,
                        better=self.better,
                    )
                    self.better = None
                report(restart * attack.steps + step + 1)
            if len(z) > 0 and self.judge:
                logits, values = self.evaluate(self.seen(z), self.now(restart, attack.steps))
                rest = self.record(z, logits, values, moved=True)
                z = z if rest is None else z[rest]
            if attack.keep == "last":
                self.best = z
            elif len(z) > 0 and self.better is not None:
                torch.where(per_row(self.better, z), z, self.best, out=self.best)
                self.better = None
        solved = self.problem.solved_by(self.best_logits)
        everyone = torch.arange(len(solved), device=solved.device)
        self.hand_over(everyone, self.seen(self.best), self.best_loss, solved)
        report(attack.restarts * attack.steps)

    def slope(self, z: Tensor, restart: int, step: int) -> tuple[Tensor, Tensor]:
        """The iterates that go on from z, and the gradient at each."""
        gradient = self.attack.gradient
        if isinstance(gradient, Estimator):
            logits, values = self.evaluate(self.seen(z), self.now(restart, step))
            rest = self.record(z, logits, values, moved=self.competes(step))
            z = z if rest is None else z[rest]
            if len(z) == 0:
                return z, z
            now = self.now(restart, step)
            return z, gradient.estimate(self.model, self.seen(z), self.objective, now)
        logits, values, grad = gradient(self.model, self.seen(z), self.objective)
        rest = self.record(z, logits, values, moved=self.competes(step))
        return (z, grad) if rest is None else (z[rest], grad[rest])

    def competes(self, step: int) -> bool:
        """Whether iterates before this step may be what comes back: starts are none."""
        return step > 0 and self.attack.keep == "best"

    def meet_clean_samples(self) -> None:
        """Predict labels that were not given, and let samples go that are solved as they are."""
        x = self.problem.x
        if len(x) == 0:
            self.problem.y = self.problem.rows
            return
        with torch.no_grad():
            logits = self.model(x.clone())  # the user's memory is never in a model's reach
            if self.problem.y is None:
                self.problem.y = logits.argmax(1)
            logits, values = self.judged(x, logits, self.now(0, 0))
            self.record(x, logits, values, moved=False)

    def start(self, restart: int) -> Tensor:
        """Iterates to start from, in the compute dtype."""
        x = self.problem.x.to(self.dtype)
        if restart == 0 and not self.random_start:
            return x.clone()
        return ops.random_in_ball(
            x,
            self.problem.of(self.attack.eps),
            self.norm,
            bounds=self.attack.bounds,
            seed=(self.key, restart),
            ids=self.problem.ids,
        )

    def step_size(self, step: int) -> float | Tensor:
        """The length of this step in the units of x."""
        if not callable(self.schedule):
            return self.problem.of(self.schedule)
        fraction = self.schedule(step, self.attack.steps)
        check_length(self.name, "step_size", fraction)
        eps = self.problem.of(self.attack.eps)
        if self.norm != 0:
            return eps * fraction
        low, high = self.attack.bounds or (0.0, 1.0)
        return eps**0.5 * (high - low) * fraction

    def spread(self, step: int) -> int:
        """How many elements share this step at least."""
        if self.norm != 1:
            return 1
        spread = SpreadDecay() if self.attack.spread is None else self.attack.spread
        fraction = spread(step, self.attack.steps) if callable(spread) else spread
        check_fraction(self.name, "spread", fraction)
        return max(1, int(fraction * self.problem.x[0].numel()))

    def seen(self, z: Tensor) -> Tensor:
        """What the model sees of the iterates: the dtype of x, rounded towards x."""
        if z.dtype == self.problem.x.dtype:
            return z
        x = self.problem.x.to(z.dtype)
        return round_within(z, x, (z - x).abs(), self.problem.x.dtype)

    def model(self, x: Tensor) -> Tensor:
        """Logits of copies of the samples in work, every row a query."""
        logits = self.forward(x)
        if self.queries == 0:
            check_labels(self.name, len(x), self.whole, logits)
        self.queries += -(-len(x) // len(self.problem.x))
        return logits

    def objective(self, logits: Tensor) -> Tensor:
        """One value to be maximised for each row of the samples' logits, or of copies of them in sequence."""
        y, target, rows = self.problem.y, self.problem.target, self.problem.rows
        assert y is not None
        if len(logits) > len(y):
            copies = len(logits) // len(y)
            y, target = y.repeat(copies), None if target is None else target.repeat(copies)
            rows = rows.repeat(copies)
        if isinstance(self.loss, SampleLoss):
            values = self.loss(logits, y, target, rows)
        else:
            values = self.loss(logits, y, target)
        if values.shape != y.shape:
            raise ValueError(
                f"{self.name}: loss must return one value per sample, [{len(logits)}], "
                f"got {list(values.shape)}"
            )
        return values

    def evaluate(self, x: Tensor, now: Step) -> tuple[Tensor, Tensor]:
        """Logits and objective values without gradients."""
        with torch.no_grad():
            return self.judged(x, self.model(x), now)

    def judged(self, x: Tensor, logits: Tensor, now: Step) -> tuple[Tensor, Tensor]:
        """Logits, NaN where a success would not count, and objective values."""
        values, gradient = self.objective(logits), self.attack.gradient
        if isinstance(gradient, Estimator):
            values, counts = gradient.judge(self.model, x, logits, values, now)
            if counts is not None:
                logits = torch.where(per_row(counts, logits), logits, math.nan)  # solves nothing
        return logits, values

    def now(self, restart: int, step: int) -> Step:
        """This step, for the samples in work."""
        return Step(step, self.attack.steps, mix(self.key, restart), self.problem.ids)

    def record(self, z: Tensor, logits: Tensor, values: Tensor, *, moved: bool) -> Tensor | None:
        """Note what an evaluation found; returns the index of the samples that go on, None for all.

        Only `moved` points compete for the highest loss; where the last is kept, it is the only one.
        """
        values = values.to(self.dtype)
        rest = None
        if self.attack.early_stop:
            solved = self.problem.solved_by(logits)
            if solved.any():
                index = solved.nonzero().squeeze(1)
                self.hand_over(index, self.seen(z)[index], values[index], solved[index])
                rest = (~solved).nonzero().squeeze(1)
                z, logits, values = z[rest], logits[rest], values[rest]
                self.problem, self.best = self.problem[rest], self.best[rest]
                self.best_loss, self.best_logits = self.best_loss[rest], self.best_logits[rest]
        if moved:
            if self.attack.keep == "last":
                self.best_loss, self.best_logits = values, logits
                return rest
            better = values > self.best_loss  # never, where the loss is no number
            torch.fmax(values, self.best_loss, out=self.best_loss)
            self.best_logits = torch.where(per_row(better, logits), logits, self.best_logits)
            self.better = better
        return rest

    def hand_over(self, index: Tensor, x_adv: Tensor, values: Tensor, success: Tensor) -> None:
        """Write the outcome for the samples at `index` of those in work."""
        rows = self.problem.rows[index]
        self.result.x_adv[rows] = x_adv
        self.result.loss[rows] = values
        self.result.success[rows] = success
        self.result.queries[rows] = self.queries
