"""What is not finite, and radii that are none, mean to emulated kernels what they mean to the reference."""

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from fastadv import reference
from tests.emulation.harness import Output, array, every_dtype, in_every_order, name_of, random_numbers

pytestmark = pytest.mark.usefixtures("one_thread")

every_norm = pytest.mark.parametrize("norm", [0.0, 1.0, 1.5, 2.0, 7.0, math.inf])
BOX = (0.0, 1.0)
COLS = 129


def spoilt(samples: Tensor) -> Tensor:
    """With a NaN in the first sample, an infinity in the second."""
    samples[0, 7], samples[1, 8] = math.nan, -math.inf
    return samples


def lengths(dtype: torch.dtype, *numbers: float) -> Tensor:
    """As many of them as there are samples, in the compute dtype."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.tensor(numbers, dtype=compute).repeat(5)[:19]


def assert_same_but_for_rounding(actual: Tensor, expected: Tensor) -> None:
    """A NaN equals a NaN, an infinity itself; other numbers agree to an ulp or two."""
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=4 * torch.finfo(actual.dtype).eps, atol=1e-6, equal_nan=True
    )


@every_dtype
@every_norm
@pytest.mark.parametrize("boxed", [False, True])
def test_projections(kernels: ModuleType, boxed: bool, norm: float, dtype: torch.dtype) -> None:
    normal = random_numbers(COLS, dtype)
    delta, x = spoilt(normal()), normal().sigmoid() if boxed else None
    eps = lengths(dtype, 3.0, math.nan, 3.0, -1.0, 0.0)

    def run() -> Tensor:
        out = Output(delta, 1)
        numbers = {"x": None if x is None else array(x), "bounds": BOX if boxed else (-math.inf, math.inf)}
        kernels.project(name_of(dtype), norm, array(out.tensor), array(delta), array(eps), **numbers)
        return out.guarded()

    expected = reference.project(delta, eps, norm, x=x, bounds=BOX if boxed else None)
    assert_same_but_for_rounding(in_every_order(kernels, run), expected)


@every_dtype
@every_norm
@pytest.mark.parametrize("where", ["x_adv", "x", "grad", "eps", "step_size"])
def test_steps(kernels: ModuleType, where: str, norm: float, dtype: torch.dtype) -> None:
    normal = random_numbers(COLS, dtype)
    x, grad = normal().sigmoid(), normal()
    x_adv = (x + 0.1 * normal()).clamp(*BOX)
    bad = (3.0, math.nan, 3.0, -1.0, 0.0)
    eps = lengths(dtype, *(bad if where == "eps" else [3.0] * 5))
    step_size = lengths(dtype, *(bad if where == "step_size" else [0.5] * 5))
    for name, samples in (("x_adv", x_adv), ("x", x), ("grad", grad)):
        if where == name:
            spoilt(samples)

    def run() -> Tensor:
        out = Output(x_adv, 1)
        kernels.pgd_step(
            dtype=name_of(dtype),
            norm=norm,
            out=array(out.tensor),
            x_adv=array(x_adv),
            x=array(x),
            grad=array(grad),
            eps=array(eps),
            step_size=array(step_size),
            bounds=BOX,
        )
        return out.guarded()

    expected = reference.pgd_step(x_adv, x, grad, eps=eps, step_size=step_size, norm=norm, bounds=BOX)
    assert_same_but_for_rounding(in_every_order(kernels, run), expected)


@every_dtype
@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, 7.0, math.inf])
def test_random_points(kernels: ModuleType, norm: float, dtype: torch.dtype) -> None:
    x = random_numbers(COLS, dtype)().sigmoid()
    x[0, 7] = math.nan
    eps, seed = lengths(dtype, 0.3, math.nan, 0.3, -1.0, 0.0), torch.tensor([5, 6])

    def run() -> Tensor:
        out = Output(x, 1)
        name, numbers = name_of(dtype), {"seed": seed.numpy(), "bounds": BOX}
        kernels.random_in_ball(name, norm, array(out.tensor), array(x), array(eps), **numbers)
        return out.guarded()

    expected = reference.random_in_ball(x, eps, norm, bounds=BOX, seed=seed)
    assert_same_but_for_rounding(in_every_order(kernels, run), expected)
