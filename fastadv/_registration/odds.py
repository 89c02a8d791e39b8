"""Fake kernels of the Odds-are-Odd statistics."""

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._registration._common import Fakes


def _fake_gap_moments(
    clean: Tensor, noisy: Tensor, sums: Tensor | None = None, squares: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    earlier = None if sums is None or squares is None else (sums, squares)
    _checks.logits_of_draws("gap_moments", clean, noisy, earlier)
    return clean.new_empty(clean.shape, dtype=torch.float64), clean.new_empty(
        clean.shape, dtype=torch.float64
    )


def _fake_odds_score(
    gaps: Tensor, predicted: Tensor, mean: Tensor, std: Tensor, two_sided: bool = False
) -> tuple[Tensor, Tensor]:
    _checks.gap_statistics("odds_score", gaps, predicted, mean, std)
    return gaps.new_empty(gaps.shape[1]), torch.empty_like(predicted)


FAKES: Fakes = {"gap_moments": _fake_gap_moments, "odds_score": _fake_odds_score}
CONSTANTS = ("gap_moments", "odds_score")
