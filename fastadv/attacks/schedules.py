"""Step sizes and numbers of samples as a function of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastadv._checks import is_integer, is_real

Schedule = Callable[[int, int], float]
"""schedule(step, steps) -> step size as a fraction of eps, for step in 0 .. steps - 1."""


@dataclass(frozen=True)
class ConstantStep:
    """Steps of `fraction` of eps, all alike.

    Args:
        fraction: of eps, > 0.
    """

    fraction: float

    def __post_init__(self) -> None:
        """Refuse what is no positive number."""
        _check_positive("ConstantStep", self.fraction)

    def __call__(self, step: int, steps: int) -> float:
        """The step size at `step` as a fraction of eps."""
        return self.fraction


@dataclass(frozen=True)
class StepDecay:
    """Large steps to get there, small ones to settle: the default of PGD.

    The first two thirds of the steps take `fraction` of eps each, the last third a quarter of that. A
    constant step cannot come closer to the maximum than its own length; a quarter of it can. With few
    steps the first ones are longer: at least 2.5 / steps of eps, so that the ball can be crossed.

    Args:
        fraction: of eps, > 0.
    """

    fraction: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what is no positive number."""
        _check_positive("StepDecay", self.fraction)

    def __call__(self, step: int, steps: int) -> float:
        """The step size at `step` as a fraction of eps."""
        first = max(self.fraction, 2.5 / steps)
        return first if 3 * step < 2 * steps else first / 4


@dataclass(frozen=True)
class SpreadDecay:
    """Steps of norm 1 that many elements share at first, and few at the end.

    Args:
        first: the fraction of a sample's elements that share the first step, in [0, 1].
    """

    first: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what is no fraction."""
        if not is_real(self.first) or not 0 <= self.first <= 1:
            raise ValueError(f"SpreadDecay: first must be a number in [0, 1], got {self.first!r}")

    def __call__(self, step: int, steps: int) -> float:
        """The fraction of the elements that share `step`."""
        return self.first * max(0.0, 1 - 2 * step / steps)


SampleSchedule = Callable[[int, int], int]
"""schedule(step, steps) -> evaluations of the model, for step in 0 .. steps - 1."""


@dataclass(frozen=True)
class StagedSamples:
    """More samples as the attack goes on, for `Evolution`: cheap steps first, then exact ones.

    The default is what broke k-WTA: 100 evaluations for each of the first 20 steps, 1,000 for the next 20
    and 20,000 from then on (Tramèr, Carlini, Brendel, Madry, "On adaptive attacks to adversarial example
    defenses", NeurIPS 2020; their code).

    Args:
        stages: (first step, evaluations per step), in order, the first of them (0, ...).
    """

    stages: tuple[tuple[int, int], ...] = ((0, 100), (20, 1_000), (40, 20_000))

    def __post_init__(self) -> None:
        """Refuse what are no stages, and stages out of order."""
        if not isinstance(self.stages, tuple | list) or not all(map(_is_stage, self.stages)):
            raise ValueError(
                "StagedSamples: stages must be pairs of integers, (first step, evaluations of at least 1), "
                f"got {self.stages!r}"
            )
        starts = [start for start, _ in self.stages]
        if starts[:1] != [0] or starts != sorted(set(starts)):
            raise ValueError(
                f"StagedSamples: stages must start at step 0 and at increasing steps, got {self.stages}"
            )

    def __call__(self, step: int, steps: int) -> int:
        """The evaluations at `step`."""
        return [samples for start, samples in self.stages if start <= step][-1]


def _check_positive(schedule: str, fraction: object) -> None:
    """Check a length of steps as a fraction of eps. Raises ValueError."""
    if not is_real(fraction) or not 0 < fraction < math.inf:
        raise ValueError(f"{schedule}: fraction must be a positive, finite number, got {fraction!r}")


def _is_stage(stage: object) -> bool:
    """Whether it is a pair of integers, the second of them at least 1."""
    return (
        isinstance(stage, tuple | list) and len(stage) == 2 and all(map(is_integer, stage)) and stage[1] >= 1
    )
