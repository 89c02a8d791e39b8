"""Fake kernels and derivatives of steps, projections and random points."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._registration._common import Derivatives, Fakes
from fastadv.reference import project_derivative, steepest_derivative

_NO_BOX = (None, None, None, False)  # the arguments of project after its norm


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
    _checks.spread(op, norm, spread)
    _checks.pixels(op, norm, pixels)
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
    _checks.interval("project", _box(lower, upper))
    _checks.pixels("project", norm, pixels)
    if x is not None:
        _checks.like("project", "x", x, "delta", delta)
    elif _box(lower, upper) != (-math.inf, math.inf):
        raise RuntimeError("fastadv::project: lower and upper are bounds of x + u: give x too")
    _checks.scalar_or_per_sample("project", "eps", eps, delta)
    return torch.empty_like(delta)


def _fake_steepest(grad: Tensor, norm: float) -> Tensor:
    _checks.samples("steepest", "grad", grad)
    _checks.norm_value("steepest", norm, zero=False)
    return torch.empty_like(grad)


def _fake_random_in_ball(
    x: Tensor, eps: Tensor, norm: float, lower: float, upper: float, seed: Tensor, ids: Tensor | None = None
) -> Tensor:
    _checks.samples("random_in_ball", "x", x)
    _checks.norm_value("random_in_ball", norm, zero=False)
    _checks.interval("random_in_ball", (lower, upper))
    _checks.scalar_or_per_sample("random_in_ball", "eps", eps, x)
    _checks.seed_tensor("random_in_ball", seed, x)
    if ids is not None:
        _checks.one_per_sample("random_in_ball", "ids", ids, x, torch.int64)
    return torch.empty_like(x)


def _box(lower: float | None, upper: float | None) -> tuple[float, float]:
    """The bounds of a box that may be open."""
    return -math.inf if lower is None else lower, math.inf if upper is None else upper


def _project_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    delta, eps, norm, x, lower, upper, ctx.pixels = inputs + _NO_BOX[len(inputs) - 3 :]
    ctx.norm = _checks.norm_value("project", norm)
    ctx.box, ctx.arguments = _box(lower, upper), len(inputs)
    ctx.save_for_backward(delta, eps, x, output)


def _project_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    delta, eps, x, output = ctx.saved_tensors
    to_delta, to_eps, to_x = project_derivative(grad, delta, eps, ctx.norm, x, ctx.box, ctx.pixels, output)
    return (to_delta, to_eps, None, to_x, None, None, None)[: ctx.arguments]


def _steepest_setup(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    grad, norm = inputs
    ctx.norm = _checks.norm_value("steepest", norm)
    ctx.save_for_backward(grad)


def _steepest_backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
    (grad,) = ctx.saved_tensors
    return steepest_derivative(upstream, grad, ctx.norm), None


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
