"""Fake kernels and derivatives of steps, projections and random points."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._registration._common import Derivatives, Fakes, l2_norm, per_row, rows


def _fake_step(
    op: str,
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    eps: Tensor,
    step_size: Tensor,
    norm: float,
    lower: float,
    upper: float,
    steepest: bool = True,
    active: Tensor | None = None,
    spread: int = 1,
    pixels: bool = False,
    best: Tensor | None = None,
    better: Tensor | None = None,
) -> Tensor:
    _checks.samples(op, "x_adv", x_adv)
    _checks.norm_value(op, norm)
    _checks.interval(op, (lower, upper))
    _checks.like(op, "x", x, "x_adv", x_adv)
    _checks.like(op, "grad", grad, "x_adv", x_adv)
    _checks.scalar_or_per_sample(op, "eps", eps, x_adv)
    _checks.scalar_or_per_sample(op, "step_size", step_size, x_adv)
    if active is not None:
        _checks.one_per_sample(op, "active", active, x_adv, torch.bool)
    _checks.kept(op, x_adv, best, better)
    return torch.empty_like(x_adv)


def _fake_project(
    delta: Tensor,
    eps: Tensor,
    norm: float,
    x: Tensor | None = None,
    lower: float | None = None,
    upper: float | None = None,
    pixels: bool = False,
) -> Tensor:
    _checks.samples("project", "delta", delta)
    _checks.norm_value("project", norm)
    _checks.scalar_or_per_sample("project", "eps", eps, delta)
    return torch.empty_like(delta)


def _fake_steepest(grad: Tensor, norm: float) -> Tensor:
    _checks.samples("steepest", "grad", grad)
    _checks.norm_value("steepest", norm)
    return torch.empty_like(grad)


def _fake_random_in_ball(
    x: Tensor, eps: Tensor, norm: float, lower: float, upper: float, seed: Tensor, ids: Tensor | None = None
) -> Tensor:
    _checks.samples("random_in_ball", "x", x)
    _checks.norm_value("random_in_ball", norm)
    _checks.interval("random_in_ball", (lower, upper))
    _checks.scalar_or_per_sample("random_in_ball", "eps", eps, x)
    _checks.seed_tensor("random_in_ball", seed, x)
    if ids is not None:
        _checks.one_per_sample("random_in_ball", "ids", ids, x, torch.int64)
    return torch.empty_like(x)


def _project_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    delta, eps, ctx.norm, *_ = inputs
    ctx.save_for_backward(delta, eps)


def _project_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of the projection: that of clamp, or of eps * delta / ||delta|| outside the ball."""
    delta, eps = ctx.saved_tensors
    dtype = _checks.compute_dtype(delta.dtype)
    wide, upstream, radius = delta.to(dtype), grad.to(dtype), rows(eps, delta)
    if ctx.norm == math.inf:
        outside = wide.abs() > radius
        normal = wide.sign()
        to_delta = torch.where(outside, 0, upstream)
    else:
        length = l2_norm(wide)
        outside = length > radius
        length = torch.where(outside, length, 1)
        normal = (wide / length).to(dtype)
        along = normal * rows((normal * upstream).flatten(1).sum(1), delta)
        to_delta = torch.where(outside, ((upstream - along) * (radius / length)).to(dtype), upstream)
    to_eps = per_row(torch.where(outside, normal * upstream, 0), eps) if ctx.needs_input_grad[1] else None
    return to_delta.to(delta.dtype), to_eps, None, None, None, None, None


def _steepest_setup(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    grad, ctx.norm = inputs
    ctx.save_for_backward(grad)


def _steepest_backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
    """The derivative of sign (0) or of grad / ||grad||, and 0 where grad is 0."""
    (grad,) = ctx.saved_tensors
    if ctx.norm == math.inf:
        return torch.zeros_like(grad), None
    length = l2_norm(grad.to(_checks.compute_dtype(grad.dtype)))
    length = torch.where(length > 0, length, math.inf)
    unit = grad.double() / length
    along = unit * rows((unit * upstream).flatten(1).sum(1), grad)
    return ((upstream - along) / length).to(grad.dtype), None


FAKES: Fakes = {
    "pgd_step": partial(_fake_step, "pgd_step"),
    "pgd_step_": lambda *args, **kwargs: (_fake_step("pgd_step_", *args, **kwargs), None)[1],
    "project": _fake_project,
    "steepest": _fake_steepest,
    "random_in_ball": _fake_random_in_ball,
}
DERIVATIVES: Derivatives = {
    "project": (_project_backward, _project_setup),
    "steepest": (_steepest_backward, _steepest_setup),
}
CONSTANTS = ("pgd_step", "pgd_step_", "random_in_ball")
