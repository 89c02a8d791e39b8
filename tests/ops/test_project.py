"""project: the certificate of a projection, idempotence, and kernels against the reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastadv import ops, reference
from tests.ops.inputs import DTYPES, NORMS, SHAPES, ULP, l2, poison, step_inputs


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_agrees_with_the_float64_reference(shape, dtype, norm, device, native):
    delta = step_inputs(shape, dtype, device)[2]
    poison(delta)
    out = ops.project(delta, 0.4, norm)
    exact = reference.project(delta.double().cpu(), 0.4, norm)
    # One unit in the last place, and what l2 aims below the sphere.
    atol = ULP[dtype] + 0.4 * reference.SLACK.get(dtype, reference.SLACK[torch.float32])
    assert torch.allclose(out.double().cpu(), exact, rtol=0, atol=atol)
    if norm == math.inf:
        assert torch.equal(out.cpu(), reference.project(delta.cpu(), 0.4, norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("size", [1, 2, 33, 5000, 20000])
def test_result_carries_the_certificate_of_a_projection(size, scale, norm, device, backend):
    """x = P(v) iff ||x||_p = eps and <v - x, x> = eps ||v - x||_q: no other solver is needed."""
    v = step_inputs((3, size), torch.float32, device)[2]
    v = torch.where(v == 0, 0.5, v) * scale
    eps = 0.5 * torch.linalg.vector_norm(v[0].double(), norm).item()  # some outside, some perhaps inside
    x = ops.project(v, eps, norm)
    outside = torch.linalg.vector_norm(v.double(), norm, dim=1) > eps
    assert outside.any()
    moved = v.double() - x.double()
    dual = 1 if norm == math.inf else 2
    inner = (moved * x.double()).sum(1)
    bound = eps * torch.linalg.vector_norm(moved, dual, dim=1)
    assert torch.allclose(inner[outside], bound[outside], rtol=2e-6, atol=0)
    lengths = torch.linalg.vector_norm(x.double(), norm, dim=1)
    assert torch.allclose(lengths[outside], torch.full_like(lengths, eps)[outside], rtol=1e-6, atol=0)
    assert torch.equal(x[~outside], v[~outside])


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 4),
    size=st.integers(1, 50),
    eps=st.just(0.0) | st.floats(1e-30, 10),  # further down float32 is subnormal and rounds absolutely
    exponent=st.integers(-20, 20),
    norm=st.sampled_from(NORMS),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 2**31),
)
def test_projecting_twice_is_projecting_once_and_never_leaves_the_ball(
    device, rows, size, eps, exponent, norm, dtype, seed
):
    delta = step_inputs((rows, size), dtype, device, seed)[2] * 10.0**exponent
    once = ops.project(delta, eps, norm)
    assert torch.equal(ops.project(once, eps, norm), once)
    known = torch.tensor(eps, dtype=torch.float64 if dtype == torch.float64 else torch.float32).item()
    assert (torch.linalg.vector_norm(once.double(), norm, dim=1) <= known).all()
    assert torch.equal(ops.project(-delta, eps, norm), -once)


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 40), eps=st.floats(1e-3, 10), norm=st.sampled_from(NORMS), seed=st.integers(0, 2**31)
)
def test_projection_is_non_expansive(device, size, eps, norm, seed):
    a = step_inputs((3, size), torch.float64, device, seed)[2]
    b = step_inputs((3, size), torch.float64, device, seed + 1)[2]
    assert (l2(ops.project(a, eps, norm) - ops.project(b, eps, norm)) <= l2(a - b) * (1 + 1e-12)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_eps_per_sample_projects_each_sample_as_if_alone(norm, device, backend):
    delta = step_inputs((4, 3, 7, 9), torch.float32, device)[2]
    eps = torch.tensor([0.0, 0.1, 1.0, 1e6], device=device)
    out = ops.project(delta, eps, norm)
    for i in range(4):
        assert torch.equal(out[i : i + 1], ops.project(delta[i : i + 1].clone(), eps[i].item(), norm))
    assert torch.count_nonzero(out[0]) == 0
    assert torch.equal(out[3], delta[3])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_in_delta_and_eps_are_those_of_finite_differences(norm, per_sample, device, backend):
    delta = step_inputs((3, 6), torch.float64, device)[2]
    delta[0] *= 0.05  # inside the ball
    eps = torch.tensor([0.3, 0.4, 0.5] if per_sample else 0.4, dtype=torch.float64, device=device)
    inputs = (delta.requires_grad_(), eps.requires_grad_())
    torch.autograd.gradcheck(lambda delta, eps: ops.project(delta, eps, norm), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_l2_projection_of_long_constant_samples_is_idempotent_and_inside(dtype, device, backend):
    """Equal elements are the worst case for sums: every addition rounds the same way."""
    values = torch.linspace(0.1, 3, 200, dtype=dtype, device=device)
    once = ops.project(values[:, None].expand(200, 20001), 1.0, 2)
    assert torch.equal(ops.project(once, 1.0, 2), once)
    exact = once[:, 0].double() * math.sqrt(20001)
    assert (exact <= 1).all()


def test_l2_gradients_are_right_where_float32_squares_vanish_or_overflow(device, backend):
    for scale in (1e-25, 1e22):
        delta = torch.tensor([[3.0, 4.0]], device=device) * scale
        delta.requires_grad_()
        projected = ops.project(delta, 0.1 * scale, 2)
        (grad,) = torch.autograd.grad(projected[0, 0], delta)
        expected = torch.tensor([[0.0128, -0.0096]], device=device)
        assert torch.allclose(grad, expected, rtol=1e-5, atol=0)
