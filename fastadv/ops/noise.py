"""Noisy copies of samples."""

import math
from typing import Literal

import torch
from torch import Tensor

from fastadv import _checks, reference
from fastadv._checks import Bounds
from fastadv._library import is_native
from fastadv.ops._arguments import seed_tensor

NoiseKind = Literal["normal", "uniform", "sign"]


def add_noise(
    x: Tensor,
    draws: int,
    *,
    kind: NoiseKind = "normal",
    scale: float,
    bounds: Bounds = (0.0, 1.0),
    seed: int | tuple[int, int] | Tensor,
    ids: Tensor | None = None,
    first_draw: int = 0,
) -> Tensor:
    """Noisy copies of x, clamped to the box, in one pass.

    The numbers are Philox4x32-10 with the seed as key and (element, sample id, draw, offset) as counter: the
    same on every device, for any batch size or chunk of draws, and the global generator is not touched.

    Args:
        x: [B, ...].
        draws: number of copies, 1 .. 2^31 - 1.
        kind: "normal" with standard deviation scale, "uniform" on (-scale, scale), or "sign", which is
            scale or -scale with equal odds: the sign of the uniform number.
        scale: in the units of x, a finite number >= 0.
        bounds: (lower, upper) of every element, or None.
        seed: as in `random_in_ball`.
        ids: [B] int64, the samples' numbers, which differ by less than 2^31; default 0 .. B-1.
        first_draw: number of the first draw, 0 .. 2^62: draws 0 .. 9 are draws 0 .. 4 and, from first_draw 5
            on, 5 .. 9.

    Returns:
        [draws, B, ...] contiguous, in the dtype of x; differentiable in x (0 at the ends of the box).
    """
    _checks.samples("add_noise", "x", x)
    _checks.no_forward_mode("add_noise", x)
    _checks.positive_count("add_noise", "draws", draws, most=2**31 - 1)
    _checks.positive_count("add_noise", "first_draw", first_draw, least=0, most=2**62)
    _checks.noise_kind("add_noise", kind)
    if not _checks.is_real(scale) or not 0 <= scale < math.inf:
        raise ValueError(f"fastadv::add_noise: scale must be a finite number of at least 0, got {scale!r}")
    lower, upper = _checks.interval("add_noise", bounds)
    if not isinstance(seed, Tensor):
        seed = seed_tensor("add_noise", seed, x.device)
    if is_native(x):
        return torch.ops.fastadv.add_noise.default(
            x, draws, kind, float(scale), lower, upper, seed, ids, first_draw
        )
    _checks.seed_tensor("add_noise", seed, x)
    if ids is not None:
        _checks.one_per_sample("add_noise", "ids", ids, x, torch.int64)
    return reference.add_noise(
        x, draws, kind=kind, scale=scale, bounds=(lower, upper), seed=seed, ids=ids, first_draw=first_draw
    ).contiguous()
