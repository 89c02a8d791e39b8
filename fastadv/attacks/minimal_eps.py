"""The smallest ball in which an attack with a fixed budget succeeds, sample by sample."""

import math
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from fastadv._checks import Bounds, Norm, is_real, norm_number
from fastadv.attacks.attack import (
    AttackResult,
    Model,
    OnStep,
    Problem,
    check_labels,
    forward,
    pose,
    undisturbed,
)
from fastadv.attacks.losses import SampleLoss

FINEST = 1e-6
"""The smallest tolerance: float32 radii cannot be told apart much better."""


class FixedBudget(Protocol):
    """What `minimal_eps` needs of an attack: a frozen dataclass with these fields, such as `PGD` or `FGSM`.

    Of its other fields, those that hold a tensor hold one number per sample.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def eps(self) -> float | Tensor:
        """The radius of the ball: float or [B]."""

    @property
    def norm(self) -> Norm:
        """The ball's norm."""

    @property
    def bounds(self) -> Bounds:
        """(lower, upper) of every element of x, or None."""

    @property
    def early_stop(self) -> bool:
        """Whether the first success ends the work on a sample."""

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype under which the model runs, or None."""

    @property
    def chunk(self) -> int | None:
        """At most so many samples at a time; None is all."""

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
        """Attack a batch, as `PGD.run`."""


_Attack = TypeVar("_Attack", bound=FixedBudget)


class MinimalEps(NamedTuple):
    """The smallest eps found for each sample.

    The attack failed at `lower` and succeeded at `eps`; where it never succeeded, the smallest eps is only
    known to be above `lower`, which then is the attack's own eps.

    Attributes:
        eps: [B] float64: the radius of the smallest ball that is known to hold a success: x_adv. 0 where x is
            one; inf where the attack failed at its own eps.
        lower: [B] float64: the largest eps below `eps` at which the attack failed; 0 where there is none.
        x_adv: [B, ...] in the dtype and memory format of x: the success, or x where there is none.
        success: [B] bool: eps is finite.
        queries: [B] int64: how often the model was evaluated on the sample, in all runs of the attack.
    """

    eps: Tensor
    lower: Tensor
    x_adv: Tensor
    success: Tensor
    queries: Tensor


def minimal_eps(
    attack: FixedBudget,
    model: Model,
    x: Tensor,
    y: Tensor | None = None,
    *,
    target: Tensor | int | None = None,
    tolerance: float = 1 / 256,
    ids: Tensor | None = None,
    on_step: OnStep | None = None,
) -> MinimalEps:
    """The smallest eps, up to the attack's own, at which the attack succeeds: bisection, sample by sample.

    First the attack is run as it is. Where it fails, that is the answer: none. The others are run again, each
    at the middle of its own bracket, all in one batch, until their brackets are narrow. A success is worth
    its own distance, not the eps that it was looked for in, and the smallest one is kept. Samples that are
    done leave the work; one that is misclassified to begin with is done in the first run.

    The success of an attack with a fixed budget need not grow with eps: steps are longer in a larger ball. So
    there may be successes below an eps at which the attack fails, in the bracket or where it fails at its own
    eps, and bisection does not see them. And like every attack's result, the smallest eps is an upper bound
    of the distance to the nearest adversarial sample, no proof that there is none nearer.

    The attack keeps its budget: the same steps at every eps. A `step_size` of None, or a schedule, is a
    fraction of eps and shrinks with it; a number stays what it is, and at an eps below it every step ends on
    the ball's surface. `early_stop` is taken as True: the first success is what is asked for. The seed is the
    same in every run; a `torch.Generator` gives a new one to each.

    Args:
        attack: `PGD`, `FGSM` or another `FixedBudget`; its eps (float or [B]) is the largest that is tried.
        model, x, y, target, ids: as in the attack's `run`. y=None: the model's own predictions, made once.
        tolerance: the width at which a bracket is done, as a fraction of the attack's eps, from 1e-6 to 1; it
            costs at most log2(1 / tolerance) runs after the first. For norm 0, whose eps is a whole number,
            the width is rounded up to a whole number.
        on_step: called with (work done, work in all) after each step of the attack.

    Returns:
        A `MinimalEps`. A sample's does not depend on its batch mates where the attack's does not.

    Raises:
        TypeError: the attack has no eps, or as the attack's `run`.
        ValueError: tolerance is out of range, or as the attack's `run`.
    """
    _check(attack, tolerance)
    own = {field.name: getattr(attack, field.name) for field in fields(attack)}
    per_sample = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    problem = pose("minimal_eps", x, y, target, ids, attack.bounds, **per_sample)
    queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if y is None:
        problem.y = _predictions(attack, model, problem)
        queries += 1
    whole = norm_number(attack.norm) == 0
    asked = torch.as_tensor(attack.eps, dtype=torch.float64, device=x.device).expand(len(x))
    asked = asked.floor() if whole else asked
    width = (asked * tolerance).ceil() if whole else asked * tolerance
    eps, lower = torch.full_like(asked, math.inf), torch.zeros_like(asked)
    x_adv, rows = problem.x.clone(), problem.rows
    bisections = math.ceil(math.log2(1 / tolerance))
    failed = asked.new_zeros(len(x), bisections + 1)  # the eps at which each run has failed
    report = _Progress(on_step, bisections + 1)
    for run in range(bisections + 1):
        if len(rows) == 0:
            break
        part = problem[rows]
        found = _restricted(attack, rows, asked, len(x)).run(
            model, part.x, part.y, target=part.target, ids=part.ids, on_step=report.of(run)
        )
        queries[rows] += found.queries
        reached = torch.minimum(asked, found.distance)
        failed[rows, run] = torch.where(found.success, 0, asked)
        hits = rows[found.success]
        eps[hits], x_adv[hits] = reached[found.success], found.x_adv[found.success]
        # A success may be nearer than an eps at which the attack has failed.
        lower[rows] = torch.where(failed[rows] < eps[rows, None], failed[rows], 0).amax(1)
        rows = rows[eps[rows].isfinite() & (eps[rows] - lower[rows] > width[rows])]
        asked = (lower[rows] + eps[rows]) / 2
        asked = asked.floor() if whole else asked
    report.end()
    return MinimalEps(eps, lower, x_adv, eps.isfinite(), queries)


def _check(attack: FixedBudget, tolerance: float) -> None:
    """Refuse what is no attack with a ball, and a tolerance out of range. Raises TypeError and ValueError."""
    if isinstance(attack, type) or not is_dataclass(attack) or not hasattr(attack, "eps"):
        raise TypeError(
            f"minimal_eps: attack must have an eps up to which to search, as PGD(eps=0.3), got {attack!r}"
        )
    if not is_real(tolerance) or not FINEST <= tolerance <= 1:
        raise ValueError(f"minimal_eps: tolerance must be a number from {FINEST:g} to 1, got {tolerance!r}")


def _predictions(attack: FixedBudget, model: Model, problem: Problem) -> Tensor:
    """[B] int64: the classes that the model gives the clean samples."""
    labels = torch.zeros_like(problem.rows)
    run = forward("minimal_eps", model, attack.autocast)
    with undisturbed(model), torch.no_grad():
        for rows in problem.rows.split(attack.chunk or max(1, len(labels))):
            if len(rows) > 0:
                logits = run(problem.x[rows])
                check_labels("minimal_eps", len(rows), problem, logits)
                labels[rows] = logits.argmax(1)
    return labels


def _restricted(attack: _Attack, rows: Tensor, eps: Tensor, samples: int) -> _Attack:
    """The attack on these `rows` of the batch of so many samples, each with an eps of its own."""
    changes: dict[str, object] = {}
    for field in fields(attack):
        value = getattr(attack, field.name)
        if isinstance(value, Tensor) and value.dim() == 1:
            changes[field.name] = value[rows]
        elif isinstance(value, SampleLoss):
            changes[field.name] = _LossOfRows(value, rows, samples)
    return replace(attack, **{**changes, "eps": eps, "early_stop": True})


@dataclass(frozen=True)
class _LossOfRows(SampleLoss):
    """A loss for some rows of the batch of so many samples that it was made for."""

    loss: SampleLoss
    rows: Tensor
    samples: int

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor | None, rows: Tensor) -> Tensor:
        """[N]: the whole batch's loss, told where in it these samples are."""
        return self.loss(logits, y, target, self.rows[rows])

    def check(self, samples: int) -> None:
        """As the loss for the whole batch."""
        self.loss.check(self.samples)


class _Progress:
    """Makes the steps of several runs, each at most as long as the first, one count."""

    def __init__(self, on_step: OnStep | None, runs: int) -> None:
        self.on_step = on_step
        self.runs = runs
        self.steps = 1  # of the first run; the later ones are counted in its units

    def of(self, run: int) -> OnStep | None:
        """What to call with (steps done, steps in all) of this run."""
        on_step = self.on_step
        if on_step is None:
            return None

        def count(step: int, steps: int) -> None:
            self.steps = steps if run == 0 else self.steps
            on_step(run * self.steps + step * self.steps // steps, self.runs * self.steps)

        return count

    def end(self) -> None:
        """All is done."""
        if self.on_step is not None:
            self.on_step(self.runs * self.steps, self.runs * self.steps)
