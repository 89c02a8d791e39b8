"""What the tests of the emulated kernels share: sizes, outputs between guards, orders, comparisons."""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

ORDERS = [("forward", 0), ("reverse", 0), ("shuffled", 1)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# Around a pack, a warp, a block. Up to 512 a warp takes a sample, up to 16384 a block, beyond that several.
COLS = [1, 2, 3, 5, 31, 33, 127, 129, 1000, 4097, 10007, 20011]
NORMS = [math.inf, 2.0]
BITS = {1: torch.uint8, 2: torch.uint16, 4: torch.int32, 8: torch.int64}
GUARD = 2048  # poisoned elements in front of a tensor and behind it: a multiple of 16 bytes in every dtype

LoadModule = Callable[[str, str], ModuleType]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: name_of(dtype))
every_norm = pytest.mark.parametrize("norm", NORMS)
every_size = pytest.mark.parametrize("cols", COLS)


def rows_for(cols: int) -> int:
    """Several warps' and blocks' worth of samples where they are short; always an odd number."""
    return 19 if cols < 200 else 3


def name_of(dtype: torch.dtype) -> str:
    """As the emulation modules name it."""
    return str(dtype).removeprefix("torch.")


def array(tensor: Tensor) -> NDArray[np.generic]:
    """The tensor's memory as NumPy has it; float16 and bfloat16 as bit patterns."""
    return (tensor.view(torch.uint16) if tensor.element_size() == 2 else tensor).numpy()


def array_or_float(value: Tensor | float) -> NDArray[np.generic] | float:
    return value if isinstance(value, float) else value.numpy()


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(BITS[tensor.element_size()])


class Output:
    """Poisoned memory for a result, `offset` elements beyond a 16-byte boundary."""

    def __init__(self, like: Tensor, offset: int = 0) -> None:
        self.buffer = torch.full((like.numel() + offset + 2 * GUARD,), math.nan, dtype=like.dtype)
        self.begin, self.end = GUARD + offset, GUARD + offset + like.numel()
        self.tensor = self.buffer[self.begin : self.end].view(like.shape)

    def guarded(self) -> Tensor:
        """The result, if nothing was written beside it."""
        outside = torch.cat([self.buffer[: self.begin], self.buffer[self.end :]])
        poison = torch.full_like(outside, math.nan)
        assert torch.equal(bits(outside), bits(poison)), "the kernel wrote outside its output"
        return self.tensor

    def checked(self) -> Tensor:
        """As guarded, for results that have no NaN."""
        self.guarded()
        assert not self.tensor.isnan().any(), "the kernel left elements unwritten, or made a NaN"
        return self.tensor


def moved_by(tensor: Tensor, offset: int) -> Tensor:
    """A copy of the tensor `offset` elements beyond a 16-byte boundary."""
    return Output(tensor, offset).tensor.copy_(tensor)


def in_every_order(kernels: ModuleType, run: Callable[[], Tensor]) -> Tensor:
    """The result of `run`, which must have the same bits in every order of blocks, warps and lanes."""
    results = []
    for order in ORDERS:
        kernels.set_order(*order)
        results.append(run())
    for result in results[1:]:
        assert torch.equal(bits(results[0]), bits(result)), "the result depends on the order of execution"
    return results[0]


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert_equal(actual, expected)
    assert torch.equal(bits(actual), bits(expected)), "the results differ in the sign of a zero"


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    differs = actual != expected
    assert not differs.any(), f"got {actual[differs][:5]}, expected {expected[differs][:5]}"


def assert_rounded_alike(actual: Tensor, expected: Tensor, magnitude: Tensor) -> None:
    """For l2: kernel and reference differ in how they sum and scale, not in what they compute.

    Allowed are the neighbour in the dtype, because a last digit may tip the rounding; four roundings of the
    compute dtype on terms of the given magnitude; and the float64 error of sums over samples of this length.
    """
    compute = torch.finfo(torch.float64 if actual.dtype == torch.float64 else torch.float32)
    wide = expected.double()
    ulp = torch.nextafter(expected.abs(), torch.full_like(expected, math.inf)).double() - wide.abs()
    relative = 4 * compute.eps + math.sqrt(actual.shape[1]) * torch.finfo(torch.float64).eps
    excess = (actual.double() - wide).abs() - ulp - relative * magnitude.double()
    assert (excess <= 0).all(), (
        f"beyond the tolerance by up to {excess.max()}, ulps there {ulp.flatten()[excess.argmax()]}"
    )


def random_numbers(cols: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Normal numbers [rows, cols], other ones in each call."""
    generator = torch.Generator().manual_seed(cols)
    shape = (rows_for(cols), cols)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def radii(kind: str, eps: float, rows: int, dtype: torch.dtype) -> Tensor | float:
    """A radius or step size as each way of passing it: a host constant, [], or [rows] with gaps and zeros."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    if kind == "constant":
        return eps
    if kind == "shared":
        return torch.tensor(eps, dtype=compute)
    spread = torch.linspace(0, 2 * eps, 2 * rows, dtype=compute)
    return spread[::2]
