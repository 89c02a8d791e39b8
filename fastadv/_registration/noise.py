"""Fake kernel and derivative of noisy copies."""

from typing import Any

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._registration._common import Derivatives, Fakes


def _fake_add_noise(
    x: Tensor,
    draws: int,
    kind: str,
    scale: float,
    lower: float,
    upper: float,
    seed: Tensor,
    ids: Tensor | None = None,
    first_draw: int = 0,
) -> Tensor:
    _checks.samples("add_noise", "x", x)
    _checks.positive_count("add_noise", "draws", draws)
    _checks.noise_kind("add_noise", kind)
    _checks.interval("add_noise", (lower, upper))
    _checks.seed_tensor("add_noise", seed, x)
    if ids is not None:
        _checks.one_per_sample("add_noise", "ids", ids, x, torch.int64)
    return x.new_empty((draws, *x.shape))


def _add_noise_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, _, _, ctx.lower, ctx.upper, *_ = inputs
    ctx.save_for_backward(output)


def _add_noise_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Each copy moves with x, but for the elements that the box cut off."""
    (out,) = ctx.saved_tensors
    inside = (out > ctx.lower) & (out < ctx.upper)
    return torch.where(inside, grad, 0).sum(0), *[None] * 8


FAKES: Fakes = {"add_noise": _fake_add_noise}
DERIVATIVES: Derivatives = {"add_noise": (_add_noise_backward, _add_noise_setup)}
