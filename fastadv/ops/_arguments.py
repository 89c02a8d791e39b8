"""From a user's arguments to those of the schemas."""

import torch
from torch import Tensor

from fastadv import _checks


def per_sample(op: str, name: str, value: float | Tensor, samples: Tensor) -> Tensor:
    """A number or tensor in the compute dtype; a number stays on the CPU, where the host reads it."""
    dtype = _checks.compute_dtype(samples.dtype)
    if isinstance(value, Tensor):
        return value.to(dtype)
    return torch.tensor(_checks.non_negative(op, name, value), dtype=dtype, device="cpu")


def seed_tensor(op: str, seed: int | tuple[int, int], device: torch.device) -> Tensor:
    """(key, offset) on the device, filled by kernels there: a copy from the host would wait for a GPU."""
    pair = seed if isinstance(seed, tuple) else (seed, 0)
    numbers = len(pair) == 2 and all(_checks.is_integer(number) for number in pair)
    if not (numbers and 0 <= pair[0] < 2**63 and 0 <= pair[1] < 2**32):
        raise ValueError(f"fastadv::{op}: seed must be in [0, 2^63), its offset in [0, 2^32), got {seed!r}")
    return torch.cat([torch.full((1,), number, dtype=torch.int64, device=device) for number in pair])


def in_format_of(model: Tensor, result: Tensor) -> Tensor:
    """The result with the strides that a kernel gives it; mixed formats leave the reference with others."""
    out = torch.empty_like(model)
    return result if out.stride() == result.stride() else out.copy_(result)
