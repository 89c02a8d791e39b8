"""project on balls of any norm: the certificate, idempotence, symmetries, limits and derivatives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastadv import ops, reference
from tests.ops.inputs import DTYPES, ULP, l2, step_inputs
from tests.ops.norms import FINITE_NORMS, dual, norm_of

NORMS = [1.0, 1.01, 1.1, 1.5, 3.0, 7.0, 50.0]
RELATIVE = {torch.float32: 1e-6, torch.float64: 1e-12}
# What the radius counts less, of it, and a float32 element is rounded by.
SHORT = {torch.float32: 2.0**-24 + 2.0**-41, torch.float64: 2.0**-41}


def known(eps, dtype):
    """eps as an operator on this dtype knows it."""
    return torch.tensor(eps, dtype=torch.float64 if dtype == torch.float64 else torch.float32).item()


def assert_certified(v, u, eps, norm):
    """u = P(v) iff ||u||_p = eps and <v - u, u> = eps ||v - u||_q, where v is outside; inside u = v.

    Relatively to v - u, or to what u is short and rounded by where v is barely outside: with an error of
    r |u_i| in each element both sides move by r eps ||u||_q at most.
    """
    tolerance = RELATIVE[v.dtype]
    outside = norm_of(v, norm) > eps
    moved = v.double() - u.double()
    inner, bound = (moved * u.double()).sum(1), eps * norm_of(moved, dual(norm))
    error = eps * norm_of(u, dual(norm)) * SHORT[v.dtype]
    assert ((inner - bound).abs() <= tolerance * bound + 2 * error)[outside].all()
    assert (norm_of(u, norm) >= eps * (1 - 2 * SHORT[v.dtype]))[outside].all()
    assert torch.equal(u[~outside], v[~outside])
    assert (norm_of(u, norm) <= eps).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 33, 2000])
def test_result_carries_the_certificate_of_a_projection(size, dtype, scale, norm, device, backend):
    v = (step_inputs((8, size), torch.float64, device)[2] * scale).to(dtype)
    v = torch.where(v == 0, 0.5 * scale, v)
    part = torch.tensor([0.5, 0.9, 0.2, 2.0, 0.05, 0.99, 0.999, 1 - 1e-6], device=device)  # of its own norm
    eps = (norm_of(v, norm) * part).to(dtype)
    assert_certified(v, ops.project(v, eps, norm), eps.double(), norm)


@pytest.mark.parametrize("norm", [1.0, 1.5, 7.0])
def test_result_carries_the_certificate_for_200000_elements(norm, device, backend):
    v = step_inputs((1, 200_000), torch.float32, device)[2]
    eps = (norm_of(v, norm) * 0.3).float()
    assert_certified(v, ops.project(v, eps, norm), eps.double(), norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("ratio", [1e-60, 1e-20, 1e-8])
def test_a_radius_far_below_the_sample_leaves_the_steepest_direction(ratio, norm, device, backend):
    """P(v) / eps goes to the maximiser of <u, v> over the unit ball as eps goes to 0."""
    v = step_inputs((3, 20), torch.float64, device)[2] + 0.05
    u = ops.project(v, ratio, norm) / ratio
    assert torch.allclose(u, ops.steepest(v, norm), rtol=0, atol=2e-12 + 100 * ratio)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 40),
    eps=st.just(0.0) | st.floats(1e-25, 10),
    exponent=st.integers(-15, 15),
    norm=st.sampled_from([0.0, *NORMS]) | st.floats(1, 60),
    dtype=st.sampled_from(DTYPES),
    boxed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_projecting_twice_is_projecting_once_and_the_result_is_in_ball_and_box(
    device, size, eps, exponent, norm, dtype, boxed, seed
):
    _, x, delta = step_inputs((3, size), dtype, device, seed)
    delta = (delta.double() * 10.0**exponent).clamp(-60000, 60000).to(dtype)
    box = {"x": x, "bounds": (0.0, 1.0)} if boxed else {}
    once = ops.project(delta, eps, norm, **box)
    assert torch.equal(ops.project(once, eps, norm, **box), once)
    if norm == 0:
        assert ((once != 0).sum(1) <= math.floor(known(eps, dtype))).all()
    else:
        assert (norm_of(once, norm) <= known(eps, dtype)).all()
    assert (once * delta >= 0).all()
    assert (once.abs() <= delta.abs()).all()
    if boxed:
        moved = x.double() + once.double()
        assert moved.min() >= 0
        assert moved.max() <= 1
    else:
        assert torch.equal(ops.project(-delta, eps, norm), -once)


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [1.0, 1.001, *NORMS[1:]])
def test_samples_that_are_barely_outside_end_inside_and_stay_there(norm, dtype, boxed, device, native):
    """10,000 of few elements, whose errors do not average out, on all scales of distance from the sphere."""
    for size in (1, 3, 64):
        _, x, v = step_inputs((10_000, size), dtype, device)
        v = v**5
        outside = 10 ** torch.linspace(-9, -1, len(v), dtype=torch.float64, device=device)
        eps = (norm_of(v, norm) * (1 - outside)).to(dtype)
        box = {"x": x, "bounds": (0.0, 1.0)} if boxed else {}
        once = ops.project(v, eps, norm, **box)
        assert (norm_of(once, norm) <= eps.double() * (1 + 1e-15)).all()
        assert torch.equal(ops.project(once, eps, norm, **box), once)
        if not boxed:
            assert (norm_of(once, norm) >= eps.double() * (1 - 2.1 * SHORT[dtype])).all()


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 40),
    eps=st.floats(1e-3, 10),
    norm=st.sampled_from(NORMS) | st.floats(1, 60),
    boxed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_projection_is_non_expansive_and_follows_permutations(device, size, eps, norm, boxed, seed):
    _, x, a = step_inputs((3, size), torch.float64, device, seed)
    b = step_inputs((3, size), torch.float64, device, seed + 1)[2]
    box = {"x": x, "bounds": (0.0, 1.0)} if boxed else {}
    image = ops.project(a, eps, norm, **box)
    assert (l2(image - ops.project(b, eps, norm, **box)) <= l2(a - b) * (1 + 1e-11)).all()
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    if boxed:
        box["x"] = x[:, order]
    assert torch.allclose(ops.project(a[:, order], eps, norm, **box), image[:, order], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "limit"), [(1 + 1e-7, 1.0), (2 + 1e-7, 2.0), (2 - 1e-7, 2.0), (1e7, math.inf)]
)
@pytest.mark.parametrize("boxed", [False, True])
def test_the_norms_with_formulas_are_limits_of_the_others(norm, limit, boxed, device, backend):
    _, x, delta = step_inputs((4, 50), torch.float64, device)
    box = {"x": x, "bounds": (0.0, 1.0)} if boxed else {}
    near, exact = ops.project(delta, 0.4, norm, **box), ops.project(delta, 0.4, limit, **box)
    assert torch.allclose(near, exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_eps_per_sample_projects_each_sample_as_if_alone(norm, device, backend):
    delta = step_inputs((4, 3, 7, 9), torch.float32, device)[2]
    eps = torch.tensor([0.0, 0.1, 1.0, 1e6], device=device)
    out = ops.project(delta, eps, norm)
    for i in range(4):
        assert torch.equal(out[i : i + 1], ops.project(delta[i : i + 1].clone(), eps[i].item(), norm))
    assert torch.count_nonzero(out[0]) == 0
    assert torch.equal(out[3], delta[3])


@pytest.mark.parametrize("norm", [0.0, *NORMS])
@pytest.mark.parametrize("shape", [(0, 7), (2, 0), (1, 1), (2, 3, 4, 5)])
def test_zeros_and_empty_samples_stay_what_they_are(shape, norm, device, backend):
    zeros = torch.zeros(shape, device=device)
    assert torch.equal(ops.project(zeros, 0.0, norm), zeros)
    assert torch.equal(ops.project(zeros, 0.3, norm, x=zeros, bounds=(0.0, 1.0)), zeros)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_results_are_exact_ones_of_a_radius_less_their_rounding(dtype, norm, device, backend):
    delta = step_inputs((3, 3, 8, 8), dtype, device)[2]
    out, radius = ops.project(delta, 0.7, norm).double(), known(0.7, dtype) * (1 - ULP[dtype] / 2)
    exact = reference.project(delta.double(), radius, norm)
    subnormal = torch.finfo(dtype).smallest_normal * ULP[dtype]
    largest = exact.abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)
    # Rounded to the nearest, after float32, of which the radius is short by another rounding.
    assert ((out - exact).abs() <= ULP[dtype] / 2 * exact.abs() + 2.0**-22 * largest + subnormal).all()


@pytest.mark.parametrize("norm", FINITE_NORMS)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("function", [ops.project, reference.project])
def test_derivatives_in_delta_eps_and_x_are_those_of_finite_differences(
    function, boxed, per_sample, norm, device, backend
):
    delta, x = (0.5 * torch.randn(3, 6, dtype=torch.float64), torch.rand(3, 6, dtype=torch.float64))
    delta[0] *= 0.02  # inside the ball
    eps = torch.tensor([0.3, 0.4, 0.5] if per_sample else 0.4, dtype=torch.float64, device=device)
    inputs = [t.to(device).requires_grad_() for t in (delta, eps)]
    if boxed:
        inputs.append(x.to(device).requires_grad_())
        torch.autograd.gradcheck(lambda d, e, x: function(d, e, norm, x=x, bounds=(0.0, 1.0)), inputs)
    else:
        torch.autograd.gradcheck(lambda d, e: function(d, e, norm), inputs)


@pytest.mark.parametrize(("norm", "eps"), [(0, 2.0), (math.inf, 0.3)])
def test_derivatives_of_norms_0_and_inf_in_a_box_are_those_of_finite_differences(norm, eps, device, backend):
    delta, x = (0.5 * torch.randn(3, 6, dtype=torch.float64), torch.rand(3, 6, dtype=torch.float64))
    inputs = [t.to(device).requires_grad_() for t in (delta, x)]
    torch.autograd.gradcheck(lambda d, x: ops.project(d, eps, norm, x=x, bounds=(0.0, 1.0)), inputs)


def test_a_sample_that_is_not_finite_has_no_projection(device, backend):
    delta = torch.tensor([[1.0, math.nan], [math.inf, 1.0], [3.0, 4.0]], device=device)
    for norm in NORMS:
        out = ops.project(delta, 1.0, norm)
        assert out[:2].isnan().all()
        assert out[2].isfinite().all()


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_l0_chooses_among_the_largest_numbers_and_infinite_ones_and_drops_what_is_none(
    dtype, pixels, device, backend
):
    largest = torch.finfo(dtype).max
    delta = torch.tensor(
        [[3.0, largest, -largest, 1.0], [-math.inf, largest, 2.0, 0.0], [math.nan, 2.0, 3.0, 1.0]],
        dtype=dtype,
        device=device,
    )
    expected = torch.tensor(
        [[0.0, largest, -largest, 0.0], [-math.inf, largest, 0.0, 0.0], [0.0, 2.0, 3.0, 0.0]],
        dtype=dtype,
        device=device,
    )
    if pixels:
        delta, expected = delta.unsqueeze(1), expected.unsqueeze(1)
    assert torch.equal(ops.project(delta, 2, norm=0, pixels=pixels), expected)
