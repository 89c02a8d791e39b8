"""Step sizes as a function of the step."""

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
