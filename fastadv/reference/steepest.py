"""The direction of steepest ascent in every norm, and its derivative."""

import math
from typing import Any

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._checks import Norm, compute_dtype
from fastadv.reference._samples import l2_norm, lp_norm


def steepest(grad: Tensor, norm: Norm) -> Tensor:
    """Direction of steepest ascent; see `fastadv.ops.steepest`."""
    out: Tensor = _Steepest.apply(grad, _checks.norm_value("steepest", norm, zero=False))
    return out


def steepest_derivative(upstream: Tensor, grad: Tensor, norm: float) -> Tensor:
    """What a gradient at the direction u is at `grad`: (|u|^(2 - p) dg - u <u, dg>) / ((p - 1) ||g||_q).

    0 for norms 1 and inf, whose directions jump, and for elements of `grad` that are 0.
    """
    if norm in (1, math.inf):
        return torch.zeros_like(grad)
    wide = grad.double()
    u = _direction(wide, norm)
    along = (u * upstream).flatten(1).sum(1).reshape(-1, *[1] * (grad.dim() - 1))
    length = lp_norm(wide, norm / (norm - 1))
    weight = torch.where(u == 0, 0, torch.where(u == 0, 1, u.abs()) ** (2 - norm)) if norm != 2 else 1
    slope = (weight * upstream - u * along) / ((norm - 1) * torch.where(length > 0, length, math.inf))
    return slope.to(grad.dtype)


class _Steepest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, norm: float) -> Tensor:
        ctx.norm = norm
        ctx.save_for_backward(grad)
        return _direction(grad, norm).to(grad.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        return steepest_derivative(upstream[0], grad, ctx.norm), None


def _direction(grad: Tensor, norm: float) -> Tensor:
    """`steepest` without its derivative, in float64 for norms between 1 and inf."""
    if norm == math.inf:
        return grad.sign()
    if norm == 2:
        length = l2_norm(grad.to(compute_dtype(grad.dtype)))
        usable = length.isfinite() & (length > 0)
        # In float64, because 1 / length overflows a float32 where the gradient is tiny.
        return torch.where(usable, grad.double() / torch.where(usable, length, 1), 0)
    size = grad.double().abs().flatten(1)
    if size.numel() == 0:
        return grad
    largest, first = size.max(1, keepdim=True)
    usable = largest.isfinite() & (largest > 0)
    if norm == 1:
        out = torch.zeros_like(size).scatter_(1, first, usable.double())
    else:
        power = (size / torch.where(usable, largest, 1)) ** (1 / (norm - 1))
        out = torch.where(usable, power / (power**norm).sum(1, keepdim=True) ** (1 / norm), 0)
    return out.reshape(grad.shape) * grad.double().sign().nan_to_num()
