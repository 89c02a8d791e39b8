"""Inputs that have broken kernels before, and what a result must satisfy whatever computed it."""

import math
import os

import torch
from torch import Tensor

# Fixed, so that a failure can be repeated; `make gpu` draws a new one each time and writes it down.
FIRST_SEED = int(os.environ.get("FASTADV_TEST_SEED", "0"))
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NORMS = [math.inf, 2.0]
# Odd sizes, warps and blocks less or more one, empty batches and samples, both sides of each tier's limit.
SHAPES = [
    (1, 1),
    (3, 1),
    (5, 3),
    (2, 31),
    (3, 33),
    (2, 129),
    (3, 511),
    (2, 513),
    (2, 3, 7, 11),
    (3, 4097),
    (2, 3, 32, 32),
    (1, 16384),
    (2, 16385),
    (1, 3, 101, 103),
    (0, 7),
    (2, 0),
]
# One unit in the last place at 1, as a bound on a result's relative error.
ULP = {torch.float32: 2.0**-23, torch.float64: 2.0**-52, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def step_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int = 0, radius: float = 0.1
) -> tuple[Tensor, Tensor, Tensor]:
    """(x_adv, x, grad): x in the box, some of it on its faces, x_adv near x, some gradients exactly 0."""
    generator = torch.Generator().manual_seed(FIRST_SEED + seed)
    x = (1.2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.1).clamp(0, 1)
    x_adv = (x + radius * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)).clamp(0, 1)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    grad = torch.where(torch.rand(shape, generator=generator) < 0.1, 0.0, grad)
    return x_adv.to(device, dtype), x.to(device, dtype), grad.to(device, dtype)


def poison(like: Tensor) -> None:
    """Leave NaN in the memory that the next tensor of this size is likely to get."""
    torch.full_like(like, math.nan)


def l2(samples: Tensor) -> Tensor:
    """[B] float64 l2 norms."""
    return torch.linalg.vector_norm(samples.double().flatten(1), dim=1)
