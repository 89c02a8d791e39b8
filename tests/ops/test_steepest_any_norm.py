"""steepest in every norm: unit length, the dual norm reached, extreme scales, derivatives."""

import math

import pytest
import torch

from fastadv import ops, reference
from tests.ops.inputs import DTYPES, step_inputs
from tests.ops.norms import FINITE_NORMS, dual, norm_of

NORMS = [norm for norm in FINITE_NORMS if norm != 2]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("size", [1, 7, 600, 20000])
def test_direction_has_unit_norm_and_reaches_the_dual_norm(size, scale, norm, device, backend):
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        grad = (step_inputs((3, size), torch.float64, device)[2] * scale + 0.01 * scale).to(dtype)
        u = ops.steepest(grad, norm)
        reached = (u.double() * grad.double()).sum(1)
        assert torch.allclose(reached, norm_of(grad, dual(norm)), rtol=tolerance, atol=0)
        assert torch.allclose(norm_of(u, norm), torch.ones_like(reached), rtol=tolerance, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_unusable_gradients_give_zero(norm, dtype, device, backend):
    grad = torch.zeros(4, 10, dtype=dtype, device=device)
    grad[1, 2], grad[2, 3], grad[3, 5] = math.nan, math.inf, -1
    grad[1:3, 0] = 1
    out = ops.steepest(grad, norm)
    assert torch.count_nonzero(out[:3]) == 0
    assert out[3, 5] == -1
    assert torch.count_nonzero(out[3]) == 1


def test_l1_moves_the_first_of_the_largest_elements_alone(device, backend):
    grad = torch.tensor([[1.0, -3.0, 3.0, 2.0], [5.0, 5.0, 5.0, -5.0]], device=device)
    assert ops.steepest(grad, "l1").tolist() == [[0, -1, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("norm", FINITE_NORMS)
@pytest.mark.parametrize("function", [ops.steepest, reference.steepest])
def test_derivative_is_that_of_finite_differences(function, norm, device, backend):
    grad = step_inputs((3, 5), torch.float64, device)[2]
    grad = (grad + 0.2 * grad.sign() + 0.1 * (grad == 0)).requires_grad_()
    torch.autograd.gradcheck(lambda g: function(g, norm), grad)
    torch.autograd.gradgradcheck(lambda g: function(g, norm), grad)
