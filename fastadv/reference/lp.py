"""The geometry of attacks: steps, projections and random points in lp balls."""

import math

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._checks import Bounds, Norm, compute_dtype
from fastadv.reference._samples import SLACK, l2_norm, lengths, over_samples, round_within
from fastadv.reference.philox import (
    box_muller,
    exponential_power,
    log_of_uniform,
    open_uniform,
    random_words,
    seed_pair,
)
from fastadv.reference.projection import nearest_point, project, room_in_box
from fastadv.reference.steepest import steepest

_RADIUS_BLOCK = 0xFFFFFFFF
_ENDLESS = 1e150  # as long as any step: squares of it are still numbers


@torch.no_grad()
def pgd_step(
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: Norm = math.inf,
    bounds: Bounds = (0.0, 1.0),
    rule: str = "steepest",
    active: Tensor | None = None,
    spread: int = 1,
    pixels: bool = False,
) -> Tensor:
    """One PGD update; see `fastadv.ops.pgd_step`."""
    dtype = compute_dtype(x.dtype)
    norm = _checks.norm_value("pgd_step", norm)
    lower, upper = _checks.interval("pgd_step", bounds)
    eps = lengths(eps, x)
    centre = x.to(dtype)
    delta = x_adv.to(dtype) - centre
    slope, step = grad.to(dtype), lengths(step_size, x).nan_to_num(nan=0, posinf=math.inf)
    if norm == math.inf:
        moved = delta + step * (slope.sign() if rule == "steepest" else slope)
        delta = project(torch.where(moved.isnan(), delta, moved), eps, norm)  # a NaN moves nothing
        limit = eps
    elif norm == 2:
        delta = _l2_step(delta, slope, eps, step, rule)
        limit = delta.abs()
    else:
        low, high = (torch.tensor(end, dtype=x.dtype).item() for end in (lower, upper))
        if rule == "steepest" and norm == 1:
            move = _l1_move(x_adv.double(), grad.double(), step, spread, low, high)
        else:
            move = _straight_move(grad.double(), step, norm, rule)
        moved = delta.double() + move
        room = room_in_box(moved, centre, low, high)
        delta = nearest_point(moved, eps, norm, room, pixels, SLACK[dtype]).to(dtype)
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
    norm: Norm = math.inf,
    bounds: Bounds = (0.0, 1.0),
    rule: str = "steepest",
    active: Tensor | None = None,
    spread: int = 1,
    pixels: bool = False,
    best: Tensor | None = None,
    better: Tensor | None = None,
) -> Tensor:
    """One PGD update in place; see `fastadv.ops.pgd_step_`."""
    if best is not None and better is not None:
        best.copy_(torch.where(over_samples(better, x), x_adv, best))
    step = pgd_step(
        x_adv,
        x,
        grad,
        eps=eps,
        step_size=step_size,
        norm=norm,
        bounds=bounds,
        rule=rule,
        active=active,
        spread=spread,
        pixels=pixels,
    )
    return x_adv.copy_(step)


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
    eps = lengths(eps, x)
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


def _straight_move(slope: Tensor, step_size: Tensor, norm: float, rule: str) -> Tensor:
    """The step along the slope, in float64; none for a sample whose slope has no direction.

    For norm 0, whose ball has no steepest direction, it is that of norm 2.
    """
    finite = slope.flatten(1).isfinite().all(1).reshape(-1, *[1] * (slope.dim() - 1))
    direction = torch.where(finite, slope if rule == "gradient" else steepest(slope, norm or 2), 0)
    return direction * step_size.double().clamp(max=_ENDLESS)


def _l1_move(
    x_adv: Tensor, slope: Tensor, step_size: Tensor, spread: int, lower: float, upper: float
) -> Tensor:
    """The steepest step of the l1 ball in the box, shared by `spread` elements or more, in float64.

    argmax <u, slope> over ||u||_1 <= step_size, |u_i| <= step_size / spread and x_adv + u in the box: Croce
    and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers" (ICML 2021),
    section 3, with the spread of Tramer and Boneh, "Adversarial training and robustness for multiple
    perturbations" (NeurIPS 2019), their SLIDE. From the largest slope on, the first of equals, each element
    takes what it has room for until the step is used up.
    """
    shape, slope = slope.shape, slope.flatten(1)
    x_adv = x_adv.flatten(1)
    step = step_size.double().clamp(max=_ENDLESS).reshape(-1, 1).to(slope.device)
    room = torch.where(slope > 0, upper - x_adv, torch.where(slope < 0, x_adv - lower, 0)).clamp(min=0)
    usable = slope.isfinite().all(1, keepdim=True)
    room = torch.where(usable, torch.minimum(room, step / spread), 0)
    order = slope.abs().argsort(dim=1, descending=True, stable=True)
    sorted_room = room.gather(1, order)
    left = step - (sorted_room.cumsum(1) - sorted_room)
    left = torch.where(left > step * 2.0**-40, left, 0)  # what is less is rounding
    taken = torch.zeros_like(room).scatter_(1, order, torch.minimum(sorted_room, left))
    return (taken * slope.sign().nan_to_num()).reshape(shape)


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
