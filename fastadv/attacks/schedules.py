"""Step sizes and numbers of samples as a function of the step."""

from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int, int], float]
"""schedule(step, steps) -> step size as a fraction of eps, for step in 0 .. steps - 1."""


@dataclass(frozen=True)
class ConstantStep:
    """Steps of `fraction` of eps, all alike.

    Args:
        fraction: of eps, > 0.
    """

    fraction: float

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

    def __call__(self, step: int, steps: int) -> float:
        """The step size at `step` as a fraction of eps."""
        first = max(self.fraction, 2.5 / steps)
        return first if 3 * step < 2 * steps else first / 4


@dataclass(frozen=True)
class SpreadDecay:
    """Steps of norm 1 that many elements share at first, and few at the end.

    Args:
        first: the fraction of a sample's elements that share the first step.
    """

    first: float = 0.05

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
        """Refuse stages out of order."""
        starts = [start for start, _ in self.stages]
        if starts[:1] != [0] or starts != sorted(set(starts)):
            raise ValueError(
                f"StagedSamples: stages must start at step 0 and at increasing steps, got {self.stages}"
            )

    def __call__(self, step: int, steps: int) -> int:
        """The evaluations at `step`."""
        return [samples for start, samples in self.stages if start <= step][-1]
