"""The smallest perturbation in l0: descents with fewer and fewer elements that may change."""

import math

import torch
from torch import Tensor

from fastadv._checks import compute_dtype
from fastadv.attacks.carlini_wagner.search import Descent, Search, pixel_dims

SHARE = 0.3
"""Of the elements that have changed, so many are held at once."""
GROWTH, LARGEST_C = 10.0, 1e4


class L0Search(Search):
    """Carlini and Wagner 2017, section VI-B; where too many are held, half as many are."""

    keeps_slopes = True
    hinged = False  # a sample leaves at its first success, and the gradient there says what matters

    def search(self) -> None:
        """Descents from the best image so far, without the elements that matter least to it."""
        attack = self.attack
        assert attack.search_steps is not None and attack.c_init is not None
        self.dims = pixel_dims(self.problem.x) if attack.pixels else None
        self.matters = torch.zeros_like(self.units(self.problem.x), dtype=self.dtype)
        c = torch.full_like(self.best_distance, attack.c_init)
        c_of_success, held = c.clone(), torch.zeros_like(self.everyone)
        rows = self.everyone
        for _ in range(attack.search_steps):
            free, start = self.left(rows, held[rows])
            found = self.descend(rows, c[rows], start=start, free=free)
            changed, count = self.best_distance[rows], held[rows]
            most = (SHARE * changed.clamp(max=2**53)).long()
            more = torch.where(count > 0, torch.minimum(2 * count, most), most).clamp(min=1)
            at_most = c[rows] >= LARGEST_C
            c_of_success[rows] = torch.where(found, c[rows], c_of_success[rows])
            held[rows] = torch.where(found, more, torch.where(at_most, count // 2, count))
            c[rows] = torch.where(found | at_most, c_of_success[rows], c[rows] * GROWTH)
            going = torch.where(found, changed > 1, ~at_most | (held[rows] > 0))
            rows = rows[going.nonzero().squeeze(1)]
            if len(rows) == 0:
                break

    def left(self, rows: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """What may change next, bool, and the images so far with the rest as in x."""
        x, best = self.problem.x[rows], self.met_so_far(rows)
        changed = self.units(best != x)
        matters = torch.where(changed, self.matters[rows], math.inf).flatten(1)
        order = matters.argsort(dim=1, stable=True)
        ranks = torch.arange(order.shape[1], device=x.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, ranks).reshape(changed.shape)
        new = self.best_distance[rows].isinf().reshape(-1, *[1] * (x.dim() - 1))
        free = new | (changed & (rank >= held.reshape(new.shape)))
        return free, torch.where(free, best, x)

    def units(self, x: Tensor) -> Tensor:
        """Elements, or whether any of a pixel's are set, [B, 1, ...]."""
        return x if self.dims is None else x.any(self.dims, keepdim=True)

    def distance(self, d: Descent) -> Tensor:
        """The number of elements or pixels that have changed."""
        return self.units(self.shown(d) != d.problem.x).flatten(1).sum(1).double()

    def done(self, d: Descent, success: Tensor, distance: Tensor) -> Tensor | None:
        """Who has succeeded."""
        return success

    def note(self, d: Descent, index: Tensor, slope: Tensor | None) -> None:
        """Keep what each element can do at most, its gradient times its room, where there is a success."""
        assert slope is not None
        index = index[d.found[index]]
        x, slope = d.problem.x[index], slope[index]
        lower, upper = self.attack.bounds
        worth = (torch.where(slope > 0, upper - x, x - lower) * slope.abs()).to(compute_dtype(x.dtype))
        self.matters[d.rows[index]] = worth if self.dims is None else worth.sum(self.dims, keepdim=True)
