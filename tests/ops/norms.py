"""Norms in float64, for any p and any scale, written without the package's own."""

import math

import torch
from torch import Tensor

FINITE_NORMS = [1.0, 1.01, 1.1, 1.5, 2.0, 3.0, 7.0, 50.0]


def dual(p: float) -> float:
    """q with 1/p + 1/q = 1."""
    return math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)


def norm_of(samples: Tensor, p: float) -> Tensor:
    """[B] float64 lp norms, scaled by the largest element so that no power overflows or vanishes."""
    size = samples.double().flatten(1).abs()
    largest = size.amax(1, keepdim=True)
    if p == math.inf:
        return largest[:, 0]
    ratio = size / torch.where(largest > 0, largest, 1)
    return largest[:, 0] * torch.linalg.vector_norm(ratio, p, dim=1)
