"""The geometry of attacks: steps, projections and random points in lp balls."""

import math

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._checks import Bounds, Norm, compute_dtype
from fastadv.reference._samples import SLACK, l2_norm, over_samples, round_within
from fastadv.reference.philox import (
    box_muller,
    exponential_power,
    log_of_uniform,
    open_uniform,
    random_words,
    seed_pair,
)
from fastadv.reference.projection import project

_RADIUS_BLOCK = 0xFFFFFFFF


@torch.no_grad()
def pgd_step(
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: float = math.inf,
    bounds: Bounds = (0.0, 1.0),
    rule: str = "steepest",
    active: Tensor | None = None,
) -> Tensor:
    """One PGD update; see `fastadv.ops.pgd_step`."""
    dtype = compute_dtype(x.dtype)
    lower, upper = _checks.interval("pgd_step", bounds)
    eps = over_samples(eps, x)
    centre = x.to(dtype)
    delta = x_adv.to(dtype) - centre
    slope, step = grad.to(dtype), over_samples(step_size, x)
    if norm == math.inf:
        moved = delta + step * (slope.sign() if rule == "steepest" else slope)
        delta = project(torch.where(moved.isnan(), delta, moved), eps, norm)  # a NaN moves nothing
        limit = eps
    else:
        delta = _l2_step(delta, slope, eps, step, rule)
        limit = delta.abs()
    out = round_within((centre + delta).clamp(lower, upper), centre, limit, x.dtype)
    return out if active is None else torch.where(over_samples(active, x), out, x_adv)


def pgd_step_(
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: float = math.inf,
    bounds: Bounds = (0.0, 1.0),
    rule: str = "steepest",
    active: Tensor | None = None,
    best: Tensor | None = None,
    better: Tensor | None = None,
) -> Tensor:
    """One PGD update in place; see `fastadv.ops.pgd_step_`."""
    if best is not None and better is not None:
        best.copy_(torch.where(over_samples(better, x), x_adv, best))
    step = pgd_step(
        x_adv, x, grad, eps=eps, step_size=step_size, norm=norm, bounds=bounds, rule=rule, active=active
    )
    return x_adv.copy_(step)


def steepest(grad: Tensor, norm: float) -> Tensor:
    """Direction of steepest ascent; see `fastadv.ops.steepest`."""
    if norm == math.inf:
        return grad.sign()
    wide = grad.to(compute_dtype(grad.dtype))
    length = l2_norm(wide)
    usable = length.isfinite() & (length > 0)
    # In float64, because 1 / length overflows a float32 where the gradient is tiny.
    direction = wide.double() / torch.where(usable, length, 1)
    return torch.where(usable, direction, 0).to(grad.dtype)


@torch.no_grad()
def random_in_ball(
    x: Tensor,
    eps: float | Tensor,
    norm: Norm = math.inf,
    *,
    bounds: Bounds = (0.0, 1.0),
    seed: int | tuple[int, int] | Tensor,
    ids: Tensor | None = None,
) -> Tensor:
    """x plus a uniform point of the ball, in the box; see `fastadv.ops.random_in_ball`.

    For norms other than 2 and inf: eps g / (sum of |g_i|^p + z)^(1 / p), with g of `exponential_power` and
    z = -ln(u) of the word that norm 2 makes its radius of. Barthe, Guedon, Mendelson, Naor, "A
    probabilistic approach to the geometry of the l_p^n-ball" (Annals of Probability 33, 2005), Theorem 1.
    """
    dtype = compute_dtype(x.dtype)
    norm = _checks.norm_value("random_in_ball", norm, zero=False)
    lower, upper = _checks.interval("random_in_ball", bounds)
    eps = over_samples(eps, x)
    key = seed_pair(seed, x)
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    size = math.prod(x.shape[1:])
    last = torch.full((1,), _RADIUS_BLOCK, device=x.device)
    if norm == math.inf:
        words = random_words(key, ids, torch.arange((size + 3) // 4, device=x.device))
        unit = 2 * open_uniform(words).flatten(1)[:, :size] - 1
        delta = unit.reshape(x.shape).to(dtype) * eps
        limit = eps
    else:
        u = over_samples(open_uniform(random_words(key, ids, last)[:, 0, 0]), x)
        if norm == 2:
            words = random_words(key, ids, torch.arange((size + 3) // 4, device=x.device))
            numbers = box_muller(words).flatten(1)[:, :size].reshape(x.shape)
            length = (u.log() / max(size, 1)).exp() / l2_norm(numbers)
        else:
            numbers = exponential_power(key, ids, size, norm).double().reshape(x.shape)
            powers = over_samples(numbers.abs().pow(norm).flatten(1).sum(1), x)
            length = (powers - log_of_uniform(u.float())).pow(-1 / norm)
        delta = (numbers * (eps.double() * (1 - SLACK[dtype]) * length)).to(dtype)
        limit = delta.abs()
    centre = x.to(dtype)
    return round_within((centre + delta).clamp(lower, upper), centre, limit, x.dtype)


def _l2_step(delta: Tensor, slope: Tensor, eps: Tensor, step_size: Tensor, rule: str) -> Tensor:
    """The step from delta along the slope, projected on the ball; none where the slope has no direction.

    The projection is part of both factors, so nothing on the way overflows: an endless step ends at
    eps * slope / ||slope||.
    """
    dtype, slack = delta.dtype, SLACK[delta.dtype]
    slope_norm, direction = l2_norm(slope), steepest(slope, 2)
    length = step_size * (slope_norm if rule == "gradient" else torch.ones_like(slope_norm))
    length = torch.where(slope_norm.isfinite() & (slope_norm > 0), length, 0)
    moved = delta + length.to(dtype) * direction
    norm = l2_norm(moved) + slack * (l2_norm(delta) + length)
    endless = length.to(dtype).isinf() | norm.isinf()
    scale = torch.where(endless, 0, torch.where(norm <= eps, 1, eps.double() / norm))
    reach = torch.where(endless, eps.double() * (1 - slack), length * scale)
    return delta * scale.to(dtype) + direction * reach.to(dtype)
