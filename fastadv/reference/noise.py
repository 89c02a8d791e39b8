"""Noisy copies of samples."""

import math

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._checks import Bounds, compute_dtype
from fastadv.reference.philox import (
    DRAW_STRIDE,
    NOISE_KEYS,
    box_muller,
    open_uniform,
    random_words,
    seed_pair,
)


def add_noise(
    x: Tensor,
    draws: int,
    *,
    kind: str = "normal",
    scale: float,
    bounds: Bounds = (0.0, 1.0),
    seed: int | tuple[int, int] | Tensor,
    ids: Tensor | None = None,
    first_draw: int = 0,
) -> Tensor:
    """Noisy copies of x, in the box; see `fastadv.ops.add_noise`."""
    dtype = compute_dtype(x.dtype)
    lower, upper = _checks.interval("add_noise", bounds)
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    size = math.prod(x.shape[1:])
    blocks = torch.arange((size + 3) // 4, device=x.device)
    numbers = torch.arange(first_draw, first_draw + draws, device=x.device)[:, None] * DRAW_STRIDE + ids
    key, offset = seed_pair(seed, x)
    words = random_words(torch.stack((key ^ NOISE_KEYS, offset)), numbers.flatten(), blocks)
    noise = box_muller(words) if kind == "normal" else 2 * open_uniform(words) - 1
    noise = noise.flatten(1)[:, :size].reshape(draws, *x.shape).to(dtype)
    noise = noise.sign() if kind == "sign" else noise
    out = (x.to(dtype) + scale * noise).clamp(lower, upper).to(x.dtype)
    # Wherever an element comes to lie on an end of the box, by rounding too, it does not move with x.
    return torch.where((out > lower) & (out < upper), out, out.detach())
