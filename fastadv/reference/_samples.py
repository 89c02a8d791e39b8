"""Numbers per sample, their norms, and rounding that stays in the ball."""

import torch
from torch import Tensor

from fastadv._checks import compute_dtype

# What an l2 norm is taken to be off by, relative to the numbers that went into it, so that rounding (of the
# sums, the scale, the products) cannot leave the ball and projecting twice changes nothing. float32: eight
# roundings. float64: the sums are in float64 too, and their error grows with the sample.
SLACK = {torch.float32: 2.0**-21, torch.float64: 2.0**-41}
# What an element is off by, relatively, that is computed in float64 and rounded once; half precision is
# rounded on the way to float32 as well. No relation holds below the dtype's least normal number.
ROUNDING = {
    torch.float64: 0.0,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11 + 2.0**-24,
    torch.bfloat16: 2.0**-8 + 2.0**-24,
}


def over_samples(value: float | Tensor, samples: Tensor) -> Tensor:
    """A number, [] or [B] (or a result of this function) as a tensor that broadcasts over `samples`."""
    if not isinstance(value, Tensor):
        return torch.tensor(value, dtype=compute_dtype(samples.dtype), device=samples.device)
    if value.dim() == 1:
        return value.reshape(-1, *[1] * (samples.dim() - 1))
    return value


def lengths(value: float | Tensor, samples: Tensor) -> Tensor:
    """As `over_samples`, for radii and step sizes: what is negative counts as 0, a NaN stays one."""
    return over_samples(value, samples).clamp(min=0)


def l2_norm(samples: Tensor) -> Tensor:
    """The l2 norm of each sample in float64, shaped to broadcast over the samples."""
    norms = torch.linalg.vector_norm(samples.flatten(1), dim=1, dtype=torch.float64)
    return norms.reshape(-1, *[1] * (samples.dim() - 1))


def lp_norm(samples: Tensor, p: float) -> Tensor:
    """The lp norm of each sample for 1 <= p <= inf in float64, shaped to broadcast over the samples."""
    if p == 2:
        return l2_norm(samples)
    sizes = samples.flatten(1).double().abs()
    if sizes.shape[1] == 0:
        norms = sizes.sum(1)
    else:
        largest = sizes.amax(1)
        scale = torch.where(largest.isfinite() & (largest > 0), largest, 1)[:, None]
        # Relative to the largest no power overflows, and what vanishes does not count.
        norms = largest if p == torch.inf else ((sizes / scale) ** p).sum(1) ** (1 / p) * scale[:, 0]
    return norms.reshape(-1, *[1] * (samples.dim() - 1))


def per_sample_like(sums: Tensor, like: Tensor) -> Tensor:
    """[B] numbers shaped like `like`, which is [] (then added up) or [B], and on its device."""
    return (sums.sum() if like.dim() == 0 else sums).to(like)


def round_within(value: Tensor, origin: Tensor, limit: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` in `dtype`, one step back towards `origin` where rounding went beyond `limit`."""
    nearest = value.to(dtype)
    outside = (nearest.to(value.dtype) - origin).abs() > limit
    back = torch.nextafter(nearest.detach(), origin.to(dtype)) - nearest.detach()
    return torch.where(outside, nearest + back, nearest)  # exact, and differentiable as the identity
