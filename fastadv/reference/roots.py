"""How far coordinates shrink when a sample is projected on an lp ball, with or without room in a box.

All numbers are float64, and scaled so that the largest coordinate is 1 (for norm 1 at least 1/2). `room` is
how far each coordinate may go in its own direction, None where there is no box. The roots are found in
logarithms, so that neither x^p nor x^(p - 1) overflows or vanishes for any p and any radius.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

ROOT_STEPS = 200
"""More than bisection alone takes to the end of float64's digits."""
CLOSE_ENOUGH = 2.0**-44
"""What a norm may be off by, relatively: an eighth of what float64 results aim below the sphere."""


def shrink_l1(size: Tensor, room: Tensor | None, radius: Tensor) -> Tensor:
    """The soft threshold max(size - theta, 0), no larger than the room, of l1 norm `radius`.

    Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient projections onto the l1-ball for learning in high
    dimensions" (ICML 2008), Figure 1, and for the box the same with two breakpoints for each coordinate:
    where it begins to move and where its room ends. What is found is reach = max(size) - theta, because theta
    is all but the largest size where the radius is small.

    Args:
        size: [B, n] >= 0.
        room: [B, n] >= 0, or None.
        radius: [B, 1] > 0 and below the norm of min(size, room).
    """
    start = size.amax(1, keepdim=True) - size
    breakpoints, slopes = start, torch.ones_like(start)
    if room is not None:
        end = start + room
        breakpoints = torch.cat((start, torch.where(end.isinf(), 0, end)), dim=1)
        slopes = torch.cat((slopes, -end.isfinite().double()), dim=1)
    breakpoints, order = breakpoints.sort(dim=1)
    slopes = slopes.gather(1, order)
    moving, offset = slopes.cumsum(1), (slopes * breakpoints).cumsum(1)
    # The norm at a breakpoint is breakpoint * moving - offset; it grows from one to the next.
    last = ((breakpoints * moving - offset <= radius).sum(1, keepdim=True) - 1).clamp(min=0)
    reach = (radius + offset.gather(1, last)) / moving.gather(1, last).clamp(min=1)
    if room is not None:  # once more, without the differences of sums
        full, free = reach >= end, (reach > start) & (reach < end)
        rest = radius - torch.where(full, room, 0).sum(1, keepdim=True)
        count = free.sum(1, keepdim=True)
        refined = (rest + torch.where(free, start, 0).sum(1, keepdim=True)) / count.clamp(min=1)
        reach = torch.where(count > 0, refined, reach)
    moved = torch.where(start < reach, reach - start, 0)
    if room is not None:
        off = (moved.minimum(room).sum(1, keepdim=True) / radius - 1).abs() > CLOSE_ENOUGH
        rows = off.squeeze(1).nonzero().squeeze(1)
        moved[rows] = _across_scales(start[rows], room[rows], radius[rows])
    return _within(moved, room, radius, 1)


def _across_scales(start: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """`shrink_l1` where sizes dwarf the room, so that reach is needed to more than its own digits.

    Bisection finds them, and then what is to be added to them.
    """

    def moved(reach: Tensor, rest: Tensor) -> Tensor:
        return ((reach - start) + rest).clamp(min=0).minimum(room)

    def bisect(high: Tensor, at: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        low = torch.zeros_like(high)
        for _ in range(ROOT_STEPS):
            middle = (low + high) / 2
            over = at(middle).sum(1, keepdim=True) > radius
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        return low, high

    last = (
        start.amax(1, keepdim=True) * (1 + 2.0**-50) + radius
    )  # all have moved by the radius, or their room
    reach, above = bisect(last, lambda reach: moved(reach, torch.zeros_like(reach)))
    rest, _ = bisect(above - reach, lambda rest: moved(reach, rest))
    return moved(reach, rest)


def shrink(size: Tensor, room: Tensor | None, radius: Tensor, p: float) -> Tensor:
    """The root x of x + c x^(p - 1) = size, at most the room, for the c > 0 that makes ||x||_p = radius.

    Newton's method on log ||x||_p as a function of log c, which falls; bisection where a step leaves the
    bracket. Rows that are done keep their bits.

    Args:
        size: [B, n] >= 0, the largest of each row 1.
        room: [B, n] >= 0, or None.
        radius: [B, 1] > 0 and below the norm of min(size, room).
        p: 1 < p < inf.
    """
    log_size = size.log()
    log_room = torch.full_like(size, torch.inf) if room is None else room.log()
    low, high = _bracket(log_size, log_room, radius, p)
    log_c, done = high, torch.zeros_like(high, dtype=torch.bool)
    for _ in range(ROOT_STEPS):
        log_x, slopes = _log_point(log_size, log_room, log_c, p)
        excess = log_norm(log_x, p) - radius.log()
        done = done | (excess.abs() <= CLOSE_ENOUGH) | (high - low <= 2.0**-52 * log_c.abs())
        if done.all():
            break
        low, high = torch.where(excess > 0, log_c, low), torch.where(excess < 0, log_c, high)
        following = log_c - excess / (torch.softmax(p * log_x, 1) * slopes).sum(1, keepdim=True)
        inside = (low < following) & (following < high)
        log_c = torch.where(done, log_c, torch.where(inside, following, (low + high) / 2))
    share = log_share(log_c + (p - 2) * log_size, p).exp()
    return _within(torch.where(size > 0, size * share, 0), room, radius, p)


def log_share(log_factor: Tensor, p: float) -> Tensor:
    """log r of the root r in (0, 1] of r + exp(log_factor) r^(p - 1) = 1.

    In s = log r that is logaddexp(s, log_factor + (p - 1) s) = 0, the root of an increasing convex function.
    Newton's method comes down to it from where neither term exceeds 1; it takes the longer the less alike the
    slopes 1 and p - 1 are. The last steps change nothing, so that no sample's bits depend on another's.
    """
    steps = 5 + math.ceil(abs(math.log2(p - 1)) / 2)
    s = (-log_factor / (p - 1)).clamp(-1e4, 0)
    for _ in range(steps):
        total = torch.logaddexp(s, log_factor + (p - 1) * s)
        weight = (s - total).exp()
        s = s - total / (weight + (1 - weight) * (p - 1))
    return s


def log_norm(log_x: Tensor, p: float) -> Tensor:
    """log ||x||_p of each row, [B, 1]."""
    return torch.logsumexp(p * log_x, 1, keepdim=True) / p


def _log_point(log_size: Tensor, log_room: Tensor, log_c: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """log x at this c, and its derivative in log c: 0 where the room ends and where there is nothing."""
    log_r = log_share(log_c + (p - 2) * log_size, p)
    log_x = log_r + log_size
    r = log_r.exp()
    slopes = -(1 - r) / (r + (1 - r) * (p - 1))
    held = (log_x >= log_room) | log_size.isinf()
    log_x = torch.where(log_size.isinf(), log_size, torch.minimum(log_x, log_room))
    return log_x, torch.where(held, 0, slopes)


def _bracket(log_size: Tensor, log_room: Tensor, radius: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Bounds of log c.

    Above: x <= (size / c)^(1 / (p - 1)). Below, with b = min(size, room): min(x, room) is at least the root y
    for b, and ||b|| <= ||y|| + c ||y^(p - 1)||, where ||y^(p - 1)|| <= n^max(0, 2 / p - 1) ||y||^(p - 1) by
    Hoelder's inequality.
    """
    high = (p - 1) * (torch.logsumexp(p / (p - 1) * log_size, 1, keepdim=True) / p - radius.log())
    norm = log_norm(torch.minimum(log_size, log_room), p).exp()
    low = (norm - radius).clamp(min=1e-300).log() - (p - 1) * radius.log()
    low = low - max(0.0, 2 / p - 1) * math.log(log_size.shape[1]) - 1e-3
    return torch.minimum(low, high - 1e-3), high + 1e-3 * (p - 1)


def _within(x: Tensor, room: Tensor | None, radius: Tensor, p: float) -> Tensor:
    """x within the room, what is free of it scaled down where rounding left the norm above the radius."""
    scale = (radius.log() - log_norm(x.log() if room is None else torch.minimum(x, room).log(), p)).exp()
    x = x * scale.clamp(max=1)
    return x if room is None else torch.minimum(x, room)
