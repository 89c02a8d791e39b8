"""The smallest perturbation in linf: descents that are charged for what exceeds a tau that shrinks."""

import math

import torch
from torch import Tensor

from fastadv.attacks.attack import distances, per_row
from fastadv.attacks.carlini_wagner.search import Descent, Search

SHRINKING = 0.9
"""tau, as a part of the distance found last."""
GROWTH, LARGEST_C = 10.0, 1e4
RESOLUTION = 0.01
"""A distance is final where a tau that is less by this part of it is too small."""
SLACK = 1e-3
"""A success counts as one inside tau up to this part of it."""


class LinfSearch(Search):
    """Carlini and Wagner 2017, section VI-C; after the first tau that is too small, by bisection."""

    power = 0  # tau bounds the distance, whatever c is

    def search(self) -> None:
        """Descents from the best image so far, or where the last ended, drawn into the tau-ball."""
        attack = self.attack
        assert attack.search_steps is not None and attack.c_init is not None
        tau = torch.full_like(self.best_distance, self.range)
        c = torch.full_like(tau, attack.c_init)
        c_of_success, too_small = c.clone(), torch.zeros_like(tau)
        rows = self.everyone
        for _ in range(attack.search_steps):
            before = self.best_distance[rows]
            x, limit = self.problem.x[rows].to(self.dtype), per_row(tau[rows].to(self.dtype), self.best)
            start = x + (self.met_so_far(rows).to(self.dtype) - x).clamp(-limit, limit)
            self.descend(rows, c[rows], tau=tau[rows], start=start)
            best = self.best_distance[rows]
            nearer = best < (1 - RESOLUTION) * before
            at_most = c[rows] >= LARGEST_C
            c_of_success[rows] = torch.where(nearer, c[rows], c_of_success[rows])
            too_small[rows] = torch.where(~nearer & at_most, tau[rows], too_small[rows])
            c[rows] = torch.where(nearer | at_most, c_of_success[rows], c[rows] * GROWTH)
            tau[rows] = torch.where(
                nearer | at_most,
                torch.maximum(SHRINKING * best, (too_small[rows] + best) / 2),
                tau[rows],
            )
            going = ~(at_most & ~nearer & best.isinf()) & (too_small[rows] < (1 - RESOLUTION) * best)
            rows = rows[going.nonzero().squeeze(1)]
            if len(rows) == 0:
                break

    def distance(self, d: Descent) -> Tensor:
        """The largest change of an element."""
        return distances(d.z, d.problem.x, math.inf)

    def done(self, d: Descent, success: Tensor, distance: Tensor) -> Tensor | None:
        """Who has a success inside tau."""
        assert d.tau is not None
        return success & (distance <= d.tau * (1 + SLACK))
