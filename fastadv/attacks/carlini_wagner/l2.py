"""The smallest perturbation in l2: descents from x for several values of c."""

import math

import torch
from torch import Tensor

from fastadv.attacks.carlini_wagner.search import Descent, Search

LARGEST_C = 1e9
"""Up to here a sample that was never broken gets ten times its c."""

PASSED_OVER = 3
"""At most so many c, the first ones, are passed over because the slope at x calls them too small."""


class L2Search(Search):
    """Carlini and Wagner 2017, section VI-A, with the bisection of their code for each sample."""

    def search(self) -> None:
        """`search_steps` descents from x, each with another c."""
        attack = self.attack
        assert attack.search_steps is not None and attack.c_init is not None
        c = torch.full_like(self.best_distance, attack.c_init)
        lower, upper, worth = torch.zeros_like(c), torch.full_like(c, math.inf), self.worth(c)
        for number in range(attack.search_steps):
            tried = ~(c < worth) | (number >= min(PASSED_OVER, attack.search_steps - 1))
            rows = tried.nonzero().squeeze(1)
            found = torch.zeros_like(tried)
            found[rows] = self.descend(rows, c[rows])
            upper = torch.where(found, torch.minimum(upper, c), upper)
            lower = torch.where(tried & ~found, torch.maximum(lower, c), lower)
            c = torch.where(upper.isfinite(), (lower + upper) / 2, (10 * c).clamp(max=LARGEST_C))

    def worth(self, c: Tensor) -> Tensor:
        """[n] float64: with a smaller c staying at x costs less than any success, if the reward is linear."""
        if not (self.hinged and self.attack.objective == "margin"):
            return torch.zeros_like(c)
        self.calls = 0
        _, values, _, slope = self.evaluate(self.begin(self.everyone, c, None, None, None), 0, True)
        self.result.queries[self.problem.rows] += self.calls
        assert slope is not None
        return -self.unit * values.double() / slope.double().flatten(1).square().sum(1)

    def distance(self, d: Descent) -> Tensor:
        """The square of it."""
        return d.penalty

    def weight(self, d: Descent) -> float | Tensor:
        """Beside the cross-entropy the distance is not squared: its gradient is the square's over 2 ||d||."""
        if self.attack.objective == "margin":
            return self.unit
        return torch.where(d.penalty > 0, 0.5 / (self.range * d.penalty.sqrt()), 0).to(self.dtype)
