"""steepest: the maximiser of <u, grad> over the unit ball."""

import math

import pytest
import torch

from fastadv import ops, reference
from tests.ops.inputs import DTYPES, NORMS, SHAPES, ULP, poison, step_inputs


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_agrees_with_the_float64_reference(shape, dtype, norm, device, native):
    grad = step_inputs(shape, dtype, device)[2]
    poison(grad)
    out = ops.steepest(grad, norm)
    exact = reference.steepest(grad.double().cpu(), norm)
    assert torch.allclose(out.double().cpu(), exact, rtol=0, atol=0 if norm == math.inf else ULP[dtype])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [1, 7, 600, 20000])
def test_direction_has_unit_norm_and_reaches_the_dual_norm(size, norm, device, backend):
    """max of <u, g> over ||u||_p <= 1 is ||g||_q with 1/p + 1/q = 1."""
    grad = step_inputs((4, size), torch.float32, device)[2] + 0.01
    u = ops.steepest(grad, norm).double()
    dual = torch.linalg.vector_norm(grad.double(), 1 if norm == math.inf else 2, dim=1)
    assert torch.allclose((u * grad.double()).sum(1), dual, rtol=1e-6, atol=0)
    unit = torch.linalg.vector_norm(u, norm, dim=1)
    assert torch.allclose(unit, torch.ones_like(unit), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_unusable_gradients_give_zero(norm, dtype, device, backend):
    grad = torch.zeros(4, 10, dtype=dtype, device=device)
    grad[1] = math.nan
    grad[2, 3] = math.inf
    grad[3, 5] = -1
    out = ops.steepest(grad, norm)
    assert torch.count_nonzero(out[:2]) == 0
    assert out.isfinite().all()
    assert out[3, 5] == -1
    assert torch.count_nonzero(out[3]) == 1


@pytest.mark.parametrize("exponent", [-45, -40, -30, 0, 30, 37])
def test_l2_direction_of_a_gradient_of_any_representable_size(exponent, device, backend):
    grad = torch.tensor([[3.0, -4.0, 0.0]], device=device, dtype=torch.float64) * 10.0**exponent
    single = grad.float()
    expected = single.double() / torch.linalg.vector_norm(single.double())
    assert torch.allclose(ops.steepest(single, 2).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_derivative_is_that_of_finite_differences(norm, device, backend):
    grad = step_inputs((3, 5), torch.float64, device)[2] + 0.05
    torch.autograd.gradcheck(lambda g: ops.steepest(g, norm), grad.requires_grad_())


def test_derivative_of_a_tiny_gradient_is_not_lost(device, backend):
    grad = torch.tensor([[3e-30, 4e-30]], device=device, requires_grad=True)
    (slope,) = torch.autograd.grad(ops.steepest(grad, 2)[0, 0], grad)
    assert torch.allclose(slope, torch.tensor([[1.28e29, -9.6e28]], device=device), rtol=1e-5, atol=0)
