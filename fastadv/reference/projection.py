"""The Euclidean projection on lp balls, alone or cut off by a box, and its derivative."""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._checks import Bounds, Norm, compute_dtype
from fastadv.reference._samples import (
    ROUNDING,
    SLACK,
    l2_norm,
    lengths,
    lp_norm,
    over_samples,
    per_sample_like,
    round_within,
)
from fastadv.reference.roots import shrink, shrink_l1


def project(
    delta: Tensor,
    eps: float | Tensor,
    norm: Norm,
    *,
    x: Tensor | None = None,
    bounds: Bounds = None,
    pixels: bool = False,
) -> Tensor:
    """Euclidean projection on the ball, and the box if there is one; see `fastadv.ops.project`."""
    lower, upper = _checks.interval("project", bounds)
    if not isinstance(eps, Tensor):
        eps = torch.tensor(eps, dtype=compute_dtype(delta.dtype), device=delta.device)
    out: Tensor = _Project.apply(delta, eps, _checks.norm_value("project", norm), x, lower, upper, pixels)
    return out


def project_derivative(
    grad: Tensor,
    delta: Tensor,
    eps: Tensor,
    norm: float,
    x: Tensor | None,
    box: tuple[float, float],
    pixels: bool,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a gradient at the projection `out` is at delta, eps and x, by implicit differentiation.

    Outside the ball, u + c |u|^(p - 1) sgn(u) = v holds for the elements that the box does not hold, and
    ||u||_p = eps. With w = du / dv at constant c, which is r / (r + (1 - r)(p - 1)) where r = u / v, and
    g = sgn(u) (|u| / eps)^(p - 1), the normal of the sphere,

        du = w (dv - g dc),    <g, du> = deps.

    For p = 1 the elements that are left have w = 1, the others 0. An element at its bound moves with x alone.
    """
    size = delta.double().abs()
    y = grad.double()
    room = None if x is None else room_in_box(delta, x, *box).double()
    held = torch.zeros_like(size, dtype=torch.bool)
    if room is not None:
        held = (size > room) & (out.abs() >= room)
    radius = lengths(eps, delta).to(delta.device).double()
    if norm == math.inf:
        held = held & ((radius > room) if room is not None else held)
        outside = ~held & (size > radius)
        to_delta = torch.where(outside | held, 0, y)
        along = torch.where(outside, delta.sign() * y, 0).flatten(1).sum(1)
        to_x = torch.where(held, -y, 0)
    elif norm == 0:
        kept = kept_by_l0(size, size if room is None else torch.minimum(size, room), radius, pixels)
        to_delta = torch.where(kept & ~held, y, 0)
        along = torch.zeros_like(y.flatten(1)[:, :0].sum(1))
        to_x = torch.where(kept & held, -y, 0)
    else:
        r = _share(size, out.double().abs(), held, norm)
        w = torch.where(held | (r == 0), 0, r / torch.where(r == 0, 1, r + (1 - r) * (norm - 1)))
        shape = (-1, *[1] * (delta.dim() - 1))
        limited = lp_norm(size if room is None else torch.minimum(size, room), norm) > radius
        g = delta.sign() * (out.double().abs() / torch.where(radius > 0, radius, 1)) ** (norm - 1)
        g = torch.where(limited & (out != 0), g, 0)
        w = torch.where(limited, w, torch.where(held, 0, 1))
        steepness = (w * g * g).flatten(1).sum(1)
        along = (w * g * y).flatten(1).sum(1) / torch.where(steepness > 0, steepness, 1)
        to_delta = w * (y - g * along.reshape(shape))
        to_x = torch.where(held, g * along.reshape(shape) - y, 0)
    return (
        to_delta.to(delta.dtype),
        per_sample_like(along, eps),
        None if x is None else to_x.to(x.dtype),
    )


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, delta: Tensor, eps: Tensor, *rest: Any) -> Tensor:
        out = projected(delta, eps, *rest)
        norm, x, lower, upper, pixels = rest
        ctx.save_for_backward(delta, eps, x, out)
        ctx.rest = norm, lower, upper, pixels
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        delta, eps, x, out = ctx.saved_tensors
        norm, lower, upper, pixels = ctx.rest
        derivative = project_derivative(grads[0], delta, eps, norm, x, (lower, upper), pixels, out)
        to_delta, to_eps, to_x = derivative
        return to_delta, to_eps, None, to_x, None, None, None


def projected(
    delta: Tensor, eps: Tensor, norm: float, x: Tensor | None, lower: float, upper: float, pixels: bool
) -> Tensor:
    """`project` on the arguments of the schema, without its derivative."""
    dtype = compute_dtype(delta.dtype)
    wide, eps = delta.to(dtype), lengths(eps, delta)
    room = None if x is None else room_in_box(delta, x, lower, upper)
    if norm == math.inf:
        limit = eps if room is None else torch.minimum(room, eps)
        result = wide.clamp(-limit, limit)
    elif norm == 2 and room is None:
        length = l2_norm(wide)
        length = torch.where(length.isfinite(), length, math.nan)
        inside = length <= eps
        scale = torch.where(inside, 1, eps.double() / torch.where(inside, 1, length) * (1 - SLACK[dtype]))
        result = wide * scale.to(dtype)
        limit = result.abs()
    else:
        # In float64, and rounded to the nearest element that has room; its norm grows by ROUNDING at most.
        slack = SLACK[torch.float64] + ROUNDING[delta.dtype]
        result = nearest_point(delta, eps, norm, room, pixels, slack)
        limit = torch.full_like(result, math.inf) if room is None else room.double()
        limit = torch.where(result.abs() < torch.finfo(delta.dtype).tiny, result.abs(), limit)
    return round_within(result, torch.zeros_like(result), limit, delta.dtype)


def nearest_point(
    delta: Tensor, eps: Tensor, norm: float, room: Tensor | None, pixels: bool, slack: float
) -> Tensor:
    """The nearest point to delta within the room and in the ball, whose radius counts less `slack` of it.

    In float64, for all norms but inf. What is in the whole ball stays what it is; in a ball whose radius is a
    NaN all is NaN.
    """
    size = delta.double().abs()
    within = size if room is None else torch.minimum(size, room)
    if norm == 0:
        kept = kept_by_l0(size, within, eps, pixels) & (within > 0)  # a NaN is not kept
        within = torch.where(eps.isnan().to(size.device), math.nan, torch.where(kept, within, 0))
    else:
        within = _shrunk(size, within, room, eps, norm, slack)
    return within.copysign(delta.double())


def room_in_box(delta: Tensor, x: Tensor, lower: float, upper: float) -> Tensor:
    """How far each element of x may go in delta's direction, >= 0, in the compute dtype.

    A number of the samples' dtype with which x does not pass the bound, whatever is rounded on the way; 0
    where x is a NaN.
    """
    low, high = torch.tensor([lower, upper], dtype=x.dtype, device=x.device).double()
    down, centre = delta < 0, x.double()
    room = torch.where(down, centre - low, high - centre).nan_to_num(nan=0, posinf=math.inf)
    room = room.clamp(min=0).to(x.dtype)
    moved = torch.where(down, centre - room.double(), centre + room.double())
    passed = (moved < low) | (moved > high)
    room = torch.where(passed, torch.nextafter(room, torch.zeros_like(room)), room)
    return room.clamp(min=0).to(compute_dtype(x.dtype))


def kept_by_l0(size: Tensor, within: Tensor, eps: Tensor, pixels: bool) -> Tensor:
    """Which elements are kept: the floor(eps) that gain most, the first of equals.

    Keeping `within` of `size` gains size^2 - (size - within)^2 = within (2 size - within), in float64; what
    is infinite gains most, what is not a number nothing. A pixel's gain is the sum of its channels', from the
    first to the last; a vector's elements are pixels.
    """
    if size.numel() == 0:
        return torch.ones_like(size, dtype=torch.bool)
    # Exact powers of two: squares neither overflow nor vanish, and nothing is rounded.
    finite = size.double().nan_to_num(nan=0, posinf=0)
    exponent = torch.frexp(finite.flatten(1).amax(1)).exponent.clamp(-1000, 1000)
    scale = over_samples(torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), -exponent), size)
    size, within = size.double() * scale, within.double() * scale
    gain = torch.where(size.isinf(), torch.where(within > 0, math.inf, 0), within * (2 * size - within))
    gain = torch.where(gain.isnan(), 0, gain)
    shape = size.shape
    if pixels and size.dim() > 2:
        gain = functools.reduce(torch.add, gain.unbind(1)).unsqueeze(1)
    order = gain.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand(order.shape)
    )
    kept = rank < eps.to(size.device).double().floor().reshape(-1, 1)
    return kept.reshape(gain.shape).expand(shape)


def _shrunk(size: Tensor, within: Tensor, room: Tensor | None, eps: Tensor, p: float, slack: float) -> Tensor:
    """The absolute values of the projection, in float64: `within` = min(size, room) if that is in the ball.

    All of a sample that is not finite is NaN.
    """
    if size.numel() == 0:
        return size
    radius = eps.to(size.device).expand(len(size), *[1] * (size.dim() - 1)).double().reshape(-1, 1)
    largest = size.flatten(1).amax(1, keepdim=True)
    valid = largest.isfinite() & ~radius.isnan()
    outside = ~(lp_norm(within, p).reshape(-1, 1) <= radius)
    out = torch.where(valid, torch.where(outside, 0, within.flatten(1)), math.nan)
    scales = torch.where(outside, largest, 1)
    if p == 1:  # a power of two keeps the differences of sizes
        scales = torch.ldexp(torch.ones_like(scales), torch.frexp(scales).exponent.clamp(-1000, 1000))
    aim = radius / scales * (1 - slack)
    rows = (outside & valid & (aim > 0)).squeeze(1).nonzero().squeeze(1)
    if len(rows) > 0:
        scale = scales[rows]
        limit = None if room is None else room.double().flatten(1)[rows] / scale
        relative = size.flatten(1)[rows] / scale
        shrunk = shrink_l1(relative, limit, aim[rows]) if p == 1 else shrink(relative, limit, aim[rows], p)
        held = shrunk < 0 if limit is None else shrunk >= limit
        out[rows] = torch.where(held, within.flatten(1)[rows], shrunk * scale)
    return out.reshape(size.shape)


def _share(size: Tensor, out: Tensor, held: Tensor, p: float) -> Tensor:
    """What the ball has left of each element, out / size; in the limit where there is nothing."""
    if p == 2:  # the same for all that the box does not hold
        return l2_norm(torch.where(held, 0, out)) / l2_norm(torch.where(held, 0, size)).clamp(min=1e-300)
    return torch.where(size > 0, out / torch.where(size > 0, size, 1), float(p > 2)).clamp(max=1)
