"""The statistics of the Odds-are-Odd detector."""

import math

import torch
from torch import Tensor


def gap_moments(
    clean_logits: Tensor, noisy_logits: Tensor, sums: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Sums of the gaps' changes and of their squares over draws; see `fastadv.ops.gap_moments`."""
    predicted = clean_logits.argmax(1, keepdim=True)
    clean = clean_logits.double()
    total, squares = (torch.zeros_like(clean), torch.zeros_like(clean)) if sums is None else sums
    for noisy in noisy_logits:  # one draw after the other: the same bits however draws are cut into chunks
        change = noisy.double() - clean
        gap = change - change.gather(1, predicted)
        total, squares = total + gap, squares + gap * gap
    return total, squares


def odds_score(
    gaps: Tensor, predicted: Tensor, mean: Tensor, std: Tensor, *, two_sided: bool = False
) -> tuple[Tensor, Tensor]:
    """The largest z-score over classes, and its class; see `fastadv.ops.odds_score`."""
    is_class = (predicted >= 0) & (predicted < gaps.shape[2])
    predicted = torch.where(is_class, predicted, 0)
    total = torch.zeros_like(gaps[0])
    for gap, centre, spread in zip(gaps, mean[:, predicted], std[:, predicted], strict=True):
        total = total + (gap - centre) / spread
    z = total / len(gaps)
    z = z.abs() if two_sided else z
    z = z.masked_fill(z.isnan() | ~is_class[:, None], -math.inf)
    z = z.scatter(1, predicted[:, None], -math.inf)
    score, towards = z.max(1)
    return score, towards
