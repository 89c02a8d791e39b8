"""What the rules of operators share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Fakes = dict[str, Callable[..., Any]]
Derivatives = dict[str, tuple[Callable[..., Any], Callable[..., None] | None]]  # backward, setup_context


def per_row(products: Tensor, like: Tensor) -> Tensor:
    """Sum of each sample, shaped like `like`, which is [] or [B], and on its device."""
    sums = products.flatten(1).sum(1)
    return (sums.sum() if like.dim() == 0 else sums).to(like)


def rows(value: Tensor, samples: Tensor) -> Tensor:
    """[] or [B] shaped to broadcast over the samples, on their device."""
    return value.to(samples.device).reshape(-1, *[1] * (samples.dim() - 1))


def l2_norm(samples: Tensor) -> Tensor:
    return rows(torch.linalg.vector_norm(samples.flatten(1), dim=1, dtype=torch.float64), samples)
