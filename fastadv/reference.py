"""Every operator in plain PyTorch: the definition, the oracle of the tests, and the fallback.

Same names and signatures as `fastadv.ops`, which documents them. Arithmetic happens in float32 (float64
for float64 samples), norms are accumulated in float64, and results are rounded so that they never leave
the ball.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._checks import Bounds, compute_dtype

# What an l2 norm is taken to be off by, relative to the numbers that went into it, so that rounding (of the
# sums, the scale, the products) cannot leave the ball and projecting twice changes nothing. float32: eight
# roundings. float64: the sums are in float64 too, and their error grows with the sample.
SLACK = {torch.float32: 2.0**-21, torch.float64: 2.0**-41}

_MASK32 = 0xFFFFFFFF
_RADIUS_BLOCK = 0xFFFFFFFF
# Draw d of sample i has the stream of number i + d * this, 2^64 over the golden ratio as a signed number: no
# two of them meet as long as ids differ by less than 2^31 and draws are fewer.
DRAW_STRIDE = 0x9E3779B97F4A7C15 - 2**64


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
    eps = _over_samples(eps, x)
    centre = x.to(dtype)
    delta = x_adv.to(dtype) - centre
    slope, step = grad.to(dtype), _over_samples(step_size, x)
    if norm == math.inf:
        moved = delta + step * (slope.sign() if rule == "steepest" else slope)
        delta = project(torch.where(moved.isnan(), delta, moved), eps, norm)  # a NaN moves nothing
        limit = eps
    else:
        delta = _l2_step(delta, slope, eps, step, rule)
        limit = delta.abs()
    out = round_within((centre + delta).clamp(lower, upper), centre, limit, x.dtype)
    return out if active is None else torch.where(_over_samples(active, x), out, x_adv)


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
        best.copy_(torch.where(_over_samples(better, x), x_adv, best))
    step = pgd_step(
        x_adv, x, grad, eps=eps, step_size=step_size, norm=norm, bounds=bounds, rule=rule, active=active
    )
    return x_adv.copy_(step)


def project(delta: Tensor, eps: float | Tensor, norm: float) -> Tensor:
    """Euclidean projection on the ball; see `fastadv.ops.project`."""
    dtype = compute_dtype(delta.dtype)
    eps = _over_samples(eps, delta)
    wide = delta.to(dtype)
    if norm == math.inf:
        projected = wide.clamp(-eps, eps)
        limit = eps
    else:
        length = _l2_norm(wide)
        inside = length <= eps
        scale = torch.where(inside, 1, eps.double() / torch.where(inside, 1, length) * (1 - SLACK[dtype]))
        projected = wide * scale.to(dtype)
        limit = projected.detach().abs()
    return round_within(projected, torch.zeros_like(wide), limit, delta.dtype)


def steepest(grad: Tensor, norm: float) -> Tensor:
    """Direction of steepest ascent; see `fastadv.ops.steepest`."""
    if norm == math.inf:
        return grad.sign()
    wide = grad.to(compute_dtype(grad.dtype))
    length = _l2_norm(wide)
    usable = length.isfinite() & (length > 0)
    # In float64, because 1 / length overflows a float32 where the gradient is tiny.
    direction = wide.double() / torch.where(usable, length, 1)
    return torch.where(usable, direction, 0).to(grad.dtype)


@torch.no_grad()
def random_in_ball(
    x: Tensor,
    eps: float | Tensor,
    norm: float = math.inf,
    *,
    bounds: Bounds = (0.0, 1.0),
    seed: int | tuple[int, int] | Tensor,
    ids: Tensor | None = None,
) -> Tensor:
    """x plus a uniform point of the ball, in the box; see `fastadv.ops.random_in_ball`."""
    dtype = compute_dtype(x.dtype)
    lower, upper = _checks.interval("random_in_ball", bounds)
    eps = _over_samples(eps, x)
    key = _seed_pair(seed, x)
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    size = math.prod(x.shape[1:])
    words = random_words(key, ids, torch.arange((size + 3) // 4, device=x.device))
    if norm == math.inf:
        unit = 2 * _open_uniform(words).flatten(1)[:, :size] - 1
        delta = unit.reshape(x.shape).to(dtype) * eps
        limit = eps
    else:
        normal = _box_muller(words).flatten(1)[:, :size].reshape(x.shape)
        last = torch.full((1,), _RADIUS_BLOCK, device=x.device)
        u = _open_uniform(random_words(key, ids, last)[:, 0, 0])
        radius = eps.double() * _over_samples((u.log() / max(size, 1)).exp(), normal) * (1 - SLACK[dtype])
        delta = (normal * (radius / _l2_norm(normal))).to(dtype)
        limit = delta.abs()
    centre = x.to(dtype)
    return round_within((centre + delta).clamp(lower, upper), centre, limit, x.dtype)


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
    words = random_words(_seed_pair(seed, x), numbers.flatten(), blocks)
    noise = _box_muller(words) if kind == "normal" else 2 * _open_uniform(words) - 1
    noise = noise.flatten(1)[:, :size].reshape(draws, *x.shape).to(dtype)
    noise = noise.sign() if kind == "sign" else noise
    return (x.to(dtype) + scale * noise).clamp(lower, upper).to(x.dtype)


def gap_moments(
    clean_logits: Tensor, noisy_logits: Tensor, sums: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Sums of the gaps' changes and of their squares over draws; see `fastadv.ops.gap_moments`."""
    predicted = clean_logits.argmax(1, keepdim=True)
    clean = clean_logits.double()
    total, squares = (torch.zeros_like(clean), torch.zeros_like(clean)) if sums is None else sums
    for noisy in noisy_logits:  # one draw after the other: the same bits however draws are cut into chunks
        change = noisy.double() - clean
        gap = change - change.gather(1, predicted)
        total, squares = total + gap, squares + gap * gap
    return total, squares


def odds_score(
    gaps: Tensor, predicted: Tensor, mean: Tensor, std: Tensor, *, two_sided: bool = False
) -> tuple[Tensor, Tensor]:
    """The largest z-score over classes, and its class; see `fastadv.ops.odds_score`."""
    is_class = (predicted >= 0) & (predicted < gaps.shape[2])
    predicted = torch.where(is_class, predicted, 0)
    total = torch.zeros_like(gaps[0])
    for gap, centre, spread in zip(gaps, mean[:, predicted], std[:, predicted], strict=True):
        total = total + (gap - centre) / spread
    z = total / len(gaps)
    z = z.abs() if two_sided else z
    z = z.masked_fill(z.isnan() | ~is_class[:, None], -math.inf)
    z = z.scatter(1, predicted[:, None], -math.inf)
    score, towards = z.max(1)
    return score, towards


def kwta(
    x: Tensor,
    k: int,
    *,
    per: str = "sample",
    ties: str = "all",
    backward: str = "mask",
) -> Tensor:
    """The k largest of each row, 0 elsewhere; see `fastadv.ops.kwta`."""
    return _KeepWinners.apply(x, kwta_mask(x, k, per=per, ties=ties), backward == "straight_through")


def kwta_mask(x: Tensor, k: int, *, per: str = "sample", ties: str = "all") -> Tensor:
    """Which elements win, as bool; see `fastadv.ops.kwta_mask`."""
    first, _, _ = _checks.winner_rows("kwta", "x", x, per, ties)
    values = x.detach().flatten(first)
    if ties == "lowest_index":
        order = values.sort(dim=-1, descending=True, stable=True).indices  # NaN first, -0 equal to +0
        mask = torch.zeros_like(values, dtype=torch.bool).scatter_(-1, order[..., :k], True)
    else:
        threshold = values.topk(k, dim=-1).values[..., -1:]
        mask = (values >= threshold) | values.isnan()
    return mask.reshape(x.shape)


class _KeepWinners(torch.autograd.Function):
    """x where the mask is set, with the derivative of that, or of the identity ("straight through")."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, straight_through: bool) -> Tensor:
        ctx.straight_through = straight_through
        if not straight_through:
            ctx.save_for_backward(mask)
        return torch.where(mask, x, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.straight_through:
            return grad, None, None
        return _DifferentiableOnce.apply(grad, *ctx.saved_tensors), None, None


class _DifferentiableOnce(torch.autograd.Function):
    """The backward pass of k-WTA, which has no backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, grad, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        raise RuntimeError(_checks.NO_DOUBLE_BACKWARD)


def _seed_pair(seed: int | tuple[int, int] | Tensor, samples: Tensor) -> Tensor:
    """(key, offset) as a tensor on the samples' device."""
    pair = (seed, 0) if isinstance(seed, int) else seed
    return pair if isinstance(pair, Tensor) else torch.tensor(pair, device=samples.device)


def _over_samples(value: float | Tensor, samples: Tensor) -> Tensor:
    """A number, [] or [B] (or a result of this function) as a tensor that broadcasts over `samples`."""
    if not isinstance(value, Tensor):
        return torch.tensor(value, dtype=compute_dtype(samples.dtype), device=samples.device)
    if value.dim() == 1:
        return value.reshape(-1, *[1] * (samples.dim() - 1))
    return value


def _l2_norm(samples: Tensor) -> Tensor:
    """The l2 norm of each sample in float64, shaped to broadcast over the samples."""
    norms = torch.linalg.vector_norm(samples.flatten(1), dim=1, dtype=torch.float64)
    return norms.reshape(-1, *[1] * (samples.dim() - 1))


def _l2_step(delta: Tensor, slope: Tensor, eps: Tensor, step_size: Tensor, rule: str) -> Tensor:
    """The step from delta along the slope, projected on the ball; none where the slope has no direction.

    The projection is part of both factors, so nothing on the way overflows: an endless step ends at
    eps * slope / ||slope||.
    """
    dtype, slack = delta.dtype, SLACK[delta.dtype]
    slope_norm, direction = _l2_norm(slope), steepest(slope, 2)
    length = step_size * (slope_norm if rule == "gradient" else torch.ones_like(slope_norm))
    length = torch.where(slope_norm.isfinite() & (slope_norm > 0), length, 0)
    moved = delta + length.to(dtype) * direction
    norm = _l2_norm(moved) + slack * (_l2_norm(delta) + length)
    endless = length.to(dtype).isinf() | norm.isinf()
    scale = torch.where(endless, 0, torch.where(norm <= eps, 1, eps.double() / norm))
    reach = torch.where(endless, eps.double() * (1 - slack), length * scale)
    return delta * scale.to(dtype) + direction * reach.to(dtype)


def round_within(value: Tensor, origin: Tensor, limit: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` in `dtype`, one step back towards `origin` where rounding went beyond `limit`."""
    nearest = value.to(dtype)
    outside = (nearest.to(value.dtype) - origin).abs() > limit
    back = torch.nextafter(nearest.detach(), origin.to(dtype)) - nearest.detach()
    return torch.where(outside, nearest + back, nearest)  # exact, and differentiable as the identity


def random_words(seed: Tensor, ids: Tensor, blocks: Tensor) -> Tensor:
    """Philox4x32-10 words [len(ids), len(blocks), 4] in int64: elements 4b..4b+3 of sample id are block b."""
    shape = (len(ids), len(blocks))
    key0, key1 = seed[0] & _MASK32, (seed[0] >> 32) & _MASK32
    c0 = blocks.expand(shape)
    c1 = (ids & _MASK32)[:, None].expand(shape)
    c2 = ((ids >> 32) & _MASK32)[:, None].expand(shape)
    c3 = (seed[1] & _MASK32).expand(shape)
    for _ in range(10):
        # int64 products wrap, but their 64 bits are right; the mask undoes the sign of the shift.
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK32) ^ c1 ^ key0,
            product1 & _MASK32,
            ((product0 >> 32) & _MASK32) ^ c3 ^ key1,
            product0 & _MASK32,
        )
        key0, key1 = (key0 + 0x9E3779B9) & _MASK32, (key1 + 0xBB67AE85) & _MASK32
    return torch.stack((c0, c1, c2, c3), dim=-1)


def _open_uniform(words: Tensor) -> Tensor:
    """Uniform on (0, 1) in float64: odd multiples of 2^-24."""
    return ((words >> 9).double() + 0.5) * 2.0**-23


def _box_muller(words: Tensor) -> Tensor:
    """Standard normals [..., 4], float32 values in float64 (Box and Muller 1958)."""
    u = _open_uniform(words)
    radius = (-2 * u[..., 0::2].log()).sqrt().float()
    angle = 2 * math.pi * u[..., 1::2]
    pairs = torch.stack((radius * angle.cos().float(), radius * angle.sin().float()), dim=-1)
    return pairs.flatten(-2).double()
