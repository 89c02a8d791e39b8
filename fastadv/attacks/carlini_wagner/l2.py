"""The smallest perturbation in l2: descents from x for several values of c."""

import math

import torch
from torch import Tensor

from fastadv.attacks.carlini_wagner.search import Descent, Search

LARGEST_C = 1e9
"""Up to here a sample that was never broken gets ten times its c."""


class L2Search(Search):
    """Carlini and Wagner 2017, section VI-A, with the bisection of their code for each sample."""

    def search(self) -> None:
        """`search_steps` descents from x, each with another c."""
        attack = self.attack
        assert attack.search_steps is not None and attack.c_init is not None
        c = torch.full_like(self.best_distance, attack.c_init)
        lower, upper = torch.zeros_like(c), torch.full_like(c, math.inf)
        for _ in range(attack.search_steps):
            found = self.descend(self.everyone, c)
            upper = torch.where(found, torch.minimum(upper, c), upper)
            lower = torch.where(found, lower, torch.maximum(lower, c))
            c = torch.where(upper.isfinite(), (lower + upper) / 2, (10 * c).clamp(max=LARGEST_C))

    def distance(self, d: Descent) -> Tensor:
        """The square of it."""
        return d.penalty

    def weight(self, d: Descent) -> float | Tensor:
        """Beside the cross-entropy the distance is not squared: its gradient is the square's over 2 ||d||."""
        if self.attack.objective == "margin":
            return 1.0
        return torch.where(d.penalty > 0, 0.5 / d.penalty.sqrt(), 0).to(self.dtype)
