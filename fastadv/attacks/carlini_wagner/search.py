"""What the searches share: descents in tanh space, and the best that each sample has met."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastadv import ops
from fastadv._checks import compute_dtype
from fastadv.attacks.attack import AttackResult, Problem, Progress, check_labels, per_row
from fastadv.attacks.gradients import Estimator, Forward
from fastadv.attacks.losses import LOSSES, margin
from fastadv.attacks.randomness import Step, mix

if TYPE_CHECKING:
    from fastadv.attacks.carlini_wagner.attack import CarliniWagner

SQUASH = 0.999999
"""Without a stretch tanh never gets to 1: where x is at a face of the box it begins so near to it."""
LEAST_GAIN = 1e-4
FEWEST_STEPS = 15
"""A descent without a success ends where its loss is not lower by this part than a tenth of the steps before.
One with a success ends where its lowest loss is not, after a tenth of the steps or FEWEST_STEPS."""


@dataclass
class Descent:
    """The samples of a descent that are still in it; every tensor has one row for each.

    Attributes:
        rows: [n] int64, their places among the search's samples.
        problem: theirs.
        z: [n, ...] images, in the dtype of x; w, m, v: their place in tanh space and Adam's means.
        centre: [n, ...] the image of x, from which distances are measured.
        c: [n] of the reward; tau: [n] or None, of the hinge.
        free: [n, ...] bool, what may change, or None for everything.
        penalty: [n] float64, the distance of z as `ops.cw_step_` has it.
        met: [n] bool, whether the descent has met a success.
        found: [n] bool, whether it has since its first tenth.
        before: [n] float64, the loss a tenth of the steps ago.
        lowest, previous: [n] float64, the lowest loss so far, and what it was at the last look.
        best, best_distance, best_logits: the nearest success so far, of this descent and those before.
        better: [n] bool, whose z is the best and not yet in `best`; None for nobody's.
    """

    rows: Tensor
    problem: Problem
    z: Tensor
    w: Tensor
    m: Tensor
    v: Tensor
    centre: Tensor
    c: Tensor
    tau: Tensor | None
    free: Tensor | None
    penalty: Tensor
    met: Tensor
    before: Tensor
    lowest: Tensor
    previous: Tensor
    found: Tensor
    best: Tensor
    best_distance: Tensor
    best_logits: Tensor
    better: Tensor | None = None

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.rows)

    def keep(self, index: Tensor) -> None:
        """Go on with the samples at `index`."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                setattr(self, field.name, value[index])


class Search(ABC):
    """One chunk of an attack: its samples that are not solved as they are, and the best found for each."""

    keeps_slopes = False
    """Whether the gradient at a success is wanted."""
    hinged = True
    """Whether the margin counts no more once it is reached."""
    power = 2
    """Distances are divided by this power of the box's width beside c."""

    def __init__(
        self,
        attack: "CarliniWagner",
        model: Forward,
        problem: Problem,
        whole: Problem,
        key: int,
        result: AttackResult,
        report: Progress,
    ) -> None:
        """A search for the samples of `problem`, a part of `whole`, that writes to `result`."""
        self.attack = attack
        self.name = type(attack).__name__
        self.forward = model
        self.problem = problem
        self.whole = whole
        self.key = key
        self.result = result
        self.report = report
        self.dtype = compute_dtype(problem.x.dtype)
        self.range = attack.bounds[1] - attack.bounds[0]
        self.unit = self.range**-self.power  # of distances: c means the same in every box
        self.round = 0

    def run(self) -> None:
        """Attack the chunk, and write what was found to the result."""
        assert self.attack.search_steps is not None
        if len(self.problem.x) > 0:
            self.meet_clean_samples()
        if len(self.problem.x) > 0:
            self.everyone = torch.arange(len(self.problem.x), device=self.problem.x.device)
            self.w = self.place(self.problem.x)
            self.centre, _ = self.image(self.w, self.problem.x, None)
            self.best = self.problem.x.clone()
            self.last = self.best.clone()
            self.best_distance = torch.full_like(self.everyone, math.inf, dtype=torch.float64)
            self.search()
            rows, success = self.problem.rows, self.best_distance.isfinite()
            self.result.x_adv[rows] = self.best
            self.result.success[rows] = success
            self.result.loss[rows] = self.loss(self.best_logits, self.problem).to(self.dtype)
        self.report(self.attack.search_steps * self.attack.steps)

    @abstractmethod
    def search(self) -> None:
        """Descend, `search_steps` times at most."""

    @abstractmethod
    def distance(self, d: Descent) -> Tensor:
        """[n] float64: what is to be small about a success."""

    def done(self, d: Descent, success: Tensor, distance: Tensor) -> Tensor | None:
        """[n] bool: who leaves the descent, having met this; None for nobody."""
        return None

    def weight(self, d: Descent) -> float | Tensor:
        """The weight of the distance in this step."""
        return self.unit

    def note(self, d: Descent, index: Tensor, slope: Tensor | None) -> None:
        """Told who leaves a descent, and the gradient where it is."""
        return None

    # Tanh space

    def place(self, x: Tensor) -> Tensor:
        """Where x is in tanh space: atanh, written as PyTorch computes it alike in every batch."""
        unit = (x.double() - self.attack.bounds[0]) * (2 / self.range) - 1
        drawn = 1 + self.attack.stretch
        unit = (unit / drawn).clamp(-SQUASH, SQUASH)
        return ((unit.log1p() - (-unit).log1p()) * (drawn / 2)).to(self.dtype)

    def image(self, w: Tensor, centre: Tensor, tau: Tensor | None) -> tuple[Tensor, Tensor]:
        """The images of w in the dtype of x, and their distances, as the operator will compute them."""
        z, zeros = torch.empty_like(centre).copy_(centre), torch.zeros_like(w)
        penalty = ops.cw_step_(
            z,
            w.clone(),
            zeros,
            zeros.clone(),
            centre,
            torch.zeros_like(centre),
            c=0.0,
            lr=0.0,
            step=1,
            bounds=self.attack.bounds,
            tau=tau,
            stretch=self.attack.stretch,
        )
        return z, penalty

    # The model

    def meet_clean_samples(self) -> None:
        """Predict labels that were not given, and let samples go that are solved as they are."""
        problem = self.problem
        with torch.no_grad():
            logits = self.forward(problem.x.clone())  # the user's memory is never in a model's reach
            check_labels(self.name, len(problem.x), self.whole, logits)
            if problem.y is None:
                problem.y = logits.argmax(1)
            self.calls = 1
            _, counts = self.judged(problem, problem.x, logits, self.now(problem, 0))
            solved = self.succeeds(problem, logits, counts)
            self.result.queries[problem.rows] += self.calls
            self.result.loss[problem.rows] = self.loss(logits, problem).to(self.dtype)
        self.result.success[problem.rows] = solved
        rest = (~solved).nonzero().squeeze(1)
        self.problem, self.best_logits = problem[rest], logits[rest]

    def now(self, problem: Problem, step: int) -> Step:
        """This step, for these samples."""
        return Step(step, self.attack.steps, mix(self.key, self.round), problem.ids)

    def loss(self, logits: Tensor, problem: Problem) -> Tensor:
        """Margin or cross-entropy of n copies of the samples."""
        y, target = problem.y, problem.target
        assert y is not None
        if len(logits) > len(y):
            copies = len(logits) // len(y)
            y, target = y.repeat(copies), None if target is None else target.repeat(copies)
        return LOSSES[self.attack.objective](logits, y, target)

    def reward(self, logits: Tensor, problem: Problem) -> Tensor:
        """What is maximised, of n copies of the samples."""
        values = self.loss(logits, problem)
        if self.attack.objective == "margin" and self.hinged:
            values = (values - self.attack.confidence).clamp(max=0)
        return values

    def judged(self, problem: Problem, x: Tensor, logits: Tensor, now: Step) -> tuple[Tensor, Tensor | None]:
        """The rewards, and which successes would count; None for all."""
        values, gradient = self.reward(logits, problem), self.attack.gradient
        if isinstance(gradient, Estimator):
            return gradient.judge(lambda x: self.model(x, problem), x, logits, values, now)
        return values, None

    def succeeds(self, problem: Problem, logits: Tensor, counts: Tensor | None) -> Tensor:
        """[n] bool: misclassified (classified as the target), as confidently as asked."""
        success = problem.solved_by(logits)
        if self.attack.confidence > 0:
            assert problem.y is not None
            success &= margin(logits, problem.y, problem.target) >= self.attack.confidence
        return success if counts is None else success & counts

    def model(self, x: Tensor, problem: Problem) -> Tensor:
        """Logits of n copies of the samples, every row a query."""
        self.calls += -(-len(x) // len(problem.x))
        return self.forward(x)

    def evaluate(
        self, d: Descent, step: int, with_slope: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Logits, rewards, which successes count, and the gradient of the reward, at the iterates."""
        x, now, gradient, problem = self.shown(d), self.now(d.problem, step), self.attack.gradient, d.problem

        def model(x: Tensor) -> Tensor:
            return self.model(x, problem)

        def objective(logits: Tensor) -> Tensor:
            return self.reward(logits, problem)

        if with_slope and not isinstance(gradient, Estimator):
            logits, values, slope = gradient(model, x, objective)
            return logits, values, None, slope
        with torch.no_grad():
            logits = model(x)
            values, counts = self.judged(problem, x, logits, now)
        if not with_slope:
            return logits, values, counts, None
        assert isinstance(gradient, Estimator)
        return logits, values, counts, gradient.estimate(model, x, objective, now).to(x.dtype)

    def shown(self, d: Descent) -> Tensor:
        """What the model sees of the iterates."""
        return d.z if d.free is None else torch.where(d.free, d.z, d.problem.x)

    # Descents

    def descend(
        self,
        rows: Tensor,
        c: Tensor,
        *,
        start: Tensor | None = None,
        tau: Tensor | None = None,
        free: Tensor | None = None,
    ) -> Tensor:
        """Let these samples descend from x, or from the images `start`; whether each met a success."""
        attack = self.attack
        assert attack.lr is not None
        d = self.begin(rows, c, start, tau, free)
        found = torch.zeros_like(self.everyone, dtype=torch.bool)
        tenth = max(1, attack.steps // 10)
        every = max(FEWEST_STEPS, tenth)
        self.calls = 0
        for step in range(attack.steps + 1):
            if len(d) == 0:
                break
            last = step == attack.steps
            logits, values, counts, slope = self.evaluate(d, step, not last or self.keeps_slopes)
            leaves = self.record(d, logits, counts)
            loss = self.unit * d.penalty - d.c * values
            d.lowest = torch.fmin(d.lowest, loss)
            if step % tenth == 0:
                hopeless = ~d.met & (loss > d.before - LEAST_GAIN * d.before.abs())
                leaves = hopeless if leaves is None else leaves | hopeless
                d.before = loss
                if step == tenth:  # Adam's first steps succeed by their length alone, whatever c is
                    d.found = torch.where(leaves, d.found, False)
            if step % every == 0:
                stuck = d.lowest > d.previous - LEAST_GAIN * d.previous.abs()
                leaves = stuck if leaves is None else leaves | stuck
                d.previous = d.lowest
            if last:
                leaves = torch.ones_like(d.found)
            if leaves is not None and leaves.any():
                self.let_go(d, leaves, slope, found)
                slope = None if slope is None else slope[(~leaves).nonzero().squeeze(1)]
            if last:
                break
            assert slope is not None
            d.penalty = ops.cw_step_(
                d.z,
                d.w,
                d.m,
                d.v,
                d.centre,
                slope if d.free is None else slope * d.free,
                c=d.c,
                lr=attack.lr,
                step=step + 1,
                bounds=attack.bounds,
                stretch=attack.stretch,
                weight=self.weight(d),
                tau=d.tau,
                best=None if d.better is None else d.best,
                better=d.better,
            )
            d.better = None
            self.report(self.round * attack.steps + step + 1)
        self.round += 1
        return found[rows]

    def met_so_far(self, rows: Tensor) -> Tensor:
        """The best images of these samples; those where the last descent has ended, before any success."""
        best = self.best[rows]
        return torch.where(per_row(self.best_distance[rows].isfinite(), best), best, self.last[rows])

    def begin(
        self, rows: Tensor, c: Tensor, start: Tensor | None, tau: Tensor | None, free: Tensor | None
    ) -> Descent:
        """A descent at its start, with Adam at rest."""
        centre = self.centre[rows]
        w = self.w[rows] if start is None else self.place(start)
        tau = None if tau is None else tau.to(self.dtype)
        z, penalty = self.image(w, centre, tau)
        return Descent(
            rows=rows,
            problem=self.problem[rows],
            z=z,
            w=w,
            m=torch.zeros_like(w),
            v=torch.zeros_like(w),
            centre=centre,
            c=c.to(self.dtype),
            tau=tau,
            free=free,
            penalty=penalty,
            met=torch.zeros_like(rows, dtype=torch.bool),
            before=torch.full_like(penalty, math.inf),
            lowest=torch.full_like(penalty, math.inf),
            previous=torch.full_like(penalty, math.inf),
            found=torch.zeros_like(rows, dtype=torch.bool),
            best=self.best[rows],
            best_distance=self.best_distance[rows],
            best_logits=self.best_logits[rows],
        )

    def record(self, d: Descent, logits: Tensor, counts: Tensor | None) -> Tensor | None:
        """Note successes that are nearer than those before; who is done, [n] bool, or None for nobody."""
        success, distance = self.succeeds(d.problem, logits, counts), self.distance(d)
        d.found, d.met = d.found | success, d.met | success
        d.better = success & (distance < d.best_distance)
        d.best_distance = torch.where(d.better, distance, d.best_distance)
        d.best_logits = torch.where(per_row(d.better, logits), logits, d.best_logits)
        return self.done(d, success, distance)

    def let_go(self, d: Descent, leaves: Tensor, slope: Tensor | None, found: Tensor) -> None:
        """Take samples out of the descent, with the best that they have met."""
        if d.better is not None:
            d.best = torch.where(per_row(d.better, d.z), self.shown(d), d.best)
            d.better = None
        index = leaves.nonzero().squeeze(1)
        rows = d.rows[index]
        self.note(d, index, slope)
        found[rows] = d.found[index]
        self.best[rows] = d.best[index]
        self.last[rows] = d.z[index]
        self.best_distance[rows] = d.best_distance[index]
        self.best_logits[rows] = d.best_logits[index]
        self.result.queries[d.problem.rows[index]] += self.calls
        d.keep((~leaves).nonzero().squeeze(1))


def pixel_dims(x: Tensor) -> int | None:
    """The dimension of channels in samples that have pixels, [B, C, ...]; None in vectors."""
    return 1 if x.dim() > 2 else None
