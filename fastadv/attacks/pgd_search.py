"""One chunk of PGD: its iterates, step by step, and the best found for each sample."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastadv import ops
from fastadv._checks import compute_dtype, norm_value
from fastadv.attacks.attack import (
    AttackResult,
    Problem,
    Progress,
    check_fraction,
    check_labels,
    check_length,
    per_row,
)
from fastadv.attacks.gradients import Estimator, Forward
from fastadv.attacks.losses import LOSSES, Loss, SampleLoss
from fastadv.attacks.lp_steps import gradient_length, of_unit_length
from fastadv.attacks.randomness import Step, mix
from fastadv.attacks.schedules import SpreadDecay, StepDecay
from fastadv.reference import round_within

if TYPE_CHECKING:
    from fastadv.attacks.pgd import PGD


class Search:
    """One chunk on its way: the samples still in work, their iterates, and the best found for each.

    Solved samples are handed to `result` and leave; tensors here always hold the rest only.
    """

    def __init__(
        self,
        attack: "PGD",
        model: Forward,
        problem: Problem,
        whole: Problem,
        key: int,
        result: AttackResult,
        judge: bool,
    ) -> None:
        """A search for the samples of `problem`, a part of `whole`, that writes to `result`."""
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
                    length = gradient_length(self.norm, step, attack.steps, keeps_best=attack.keep == "best")
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
