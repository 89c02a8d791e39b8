"""The kernels of the norms 0, 1 and 1 < p < inf against the reference on the CPU, with and without a box.

Norms 2 and inf have the same in the files of their operators. On a GPU this is where a kernel meets numbers
that it has not computed itself.
"""

import math

import pytest
import torch

from fastadv import ops, reference
from fastadv._checks import compute_dtype
from tests.ops.inputs import DTYPES, ULP, poison, step_inputs
from tests.ops.test_pgd_step import layouts

pytestmark = pytest.mark.usefixtures("native")

NORMS = [0.0, 1.0, 1.1, 1.5, 3.0, 7.0]
# Odd sizes, warps and small and large blocks less or more one, one element, nothing.
SHAPES = [(3, 1), (2, 31), (3, 2, 129), (2, 3, 7, 11), (2, 2047), (2, 2049), (1, 16385), (0, 7), (2, 0)]

every_norm = pytest.mark.parametrize("norm", NORMS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def radius_of(norm, shape):
    """One that most normal samples are outside of, and some of their elements."""
    count = max(1, math.prod(shape[1:]))
    return float(max(1, count // 3)) if norm == 0 else 0.4 * count ** (1 / norm)


def assert_near(actual, expected, scale, dtype, roundings=1):
    """Roundings of each element in its dtype, and four of `scale` in the compute dtype."""
    unit, exact = ULP[compute_dtype(dtype)] + 2.0**-40, expected.double()
    least = torch.finfo(dtype).smallest_normal
    error = (actual.cpu().double() - exact).abs()
    assert (error <= roundings * ULP[dtype] * exact.abs().clamp(min=least) + 4 * unit * scale).all()


@every_dtype
@every_norm
@every_shape
@pytest.mark.parametrize("boxed", [False, True])
def test_the_projection_is_the_float64_references(boxed, shape, norm, dtype, device):
    _, x, delta = step_inputs(shape, dtype, device)
    delta[:1] *= 0.01  # inside the ball
    eps = radius_of(norm, shape) * torch.linspace(0.5, 1.5, len(x), dtype=compute_dtype(dtype), device=device)
    box = {"x": x, "bounds": (0.0, 1.0)} if boxed else {}
    poison(delta)
    out = ops.project(delta, eps, norm, **box)
    if norm == 0:
        box = {"x": x.cpu(), "bounds": (0.0, 1.0)} if boxed else {}
        assert torch.equal(out.cpu(), reference.project(delta.cpu(), eps.cpu(), norm, **box))
        return
    # The radius of half precision counts less the rounding of its elements.
    exact_box = {"x": x.double().cpu(), "bounds": (0.0, 1.0)} if boxed else {}
    aim = eps.double().cpu() * (1 - (ULP[dtype] / 2 if dtype.itemsize == 2 else 0))
    exact = reference.project(delta.double().cpu(), aim, norm, **exact_box)
    # In a box few elements may make up for what the radius is short of.
    scale = (4 * eps.double().cpu() if boxed else exact.abs().flatten(1).sum(1) / max(1, out[:1].numel())) + 1
    assert_near(out, exact, scale.reshape(-1, *[1] * (out.dim() - 1)), dtype)


@every_norm
@pytest.mark.parametrize("boxed", [False, True])
def test_the_projections_derivatives_are_the_references(boxed, norm, device):
    _, x, delta = step_inputs((4, 3, 9, 11), torch.float64, device)
    eps = radius_of(norm, x.shape) * torch.linspace(0.5, 1.5, len(x), dtype=torch.float64, device=device)
    upstream = step_inputs(x.shape, torch.float64, device, seed=1)[2]

    def slopes(function, to):
        leaves = [to(tensor).requires_grad_() for tensor in (delta, eps, x)[: 3 if boxed else 2]]
        box = {"x": leaves[2], "bounds": (0.0, 1.0)} if boxed else {}
        function(*leaves[:2], norm, **box).backward(to(upstream))
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]

    ours, theirs = slopes(ops.project, torch.clone), slopes(reference.project, torch.Tensor.cpu)
    for slope, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(slope.cpu(), expected, rtol=1e-8, atol=1e-8)


@every_dtype
@every_shape
@pytest.mark.parametrize("norm", NORMS[1:])
def test_the_steepest_direction_is_the_float64_references(norm, shape, dtype, device):
    grad = step_inputs(shape, dtype, device)[2]
    poison(grad)
    exact = reference.steepest(grad.double().cpu(), norm)
    assert_near(ops.steepest(grad, norm), exact, exact.abs().max() if exact.numel() else 0, dtype)


@every_dtype
@every_shape
@pytest.mark.parametrize("norm", NORMS[1:])
def test_random_points_are_the_references(norm, shape, dtype, device):
    x = step_inputs(shape, dtype, device)[1]
    ids = 2**40 + 7 * torch.arange(len(x), device=device)
    poison(x)
    eps = radius_of(norm, shape)
    out = ops.random_in_ball(x, eps, norm, seed=(11, 3), ids=ids, bounds=None)
    expected = reference.random_in_ball(x.cpu(), eps, norm, seed=(11, 3), ids=ids.cpu(), bounds=None)
    scale = (expected.double() - x.cpu().double()).abs().max() + 1 if x.numel() else 0
    assert_near(out, expected, scale, dtype)


STEPS = [(norm, options) for norm in NORMS for options in ({}, {"rule": "gradient"}, {"bounds": None})]
STEPS += [(0.0, {"pixels": True}), (1.0, {"spread": 5})]


@every_dtype
@every_shape
@pytest.mark.parametrize(("norm", "options"), STEPS)
def test_the_step_is_the_references_and_leaves_the_inactive_alone(norm, options, shape, dtype, device):
    x_adv, x, grad = step_inputs(shape, dtype, device)
    active = torch.arange(len(x), device=device) != 1
    numbers = torch.linspace(0.5, 1, len(x), dtype=compute_dtype(dtype), device=device)
    eps, step_size = radius_of(norm, shape) / 4 * numbers, max(0.3, radius_of(norm, shape) / 8) * numbers
    settings = {"norm": norm} | options
    best, better, moved = torch.full_like(x, 0.25), ~active, x_adv.clone()
    poison(x)
    out = ops.pgd_step(x_adv, x, grad, eps=eps, step_size=step_size, active=active, **settings)
    keep = {"active": active, "best": best, "better": better}
    ops.pgd_step_(moved, x, grad, eps=eps, step_size=step_size, **keep, **settings)
    assert torch.equal(moved, out)
    assert torch.equal(best, torch.where(better.reshape(-1, *[1] * (x.dim() - 1)), x_adv, 0.25))
    on_cpu = {"eps": eps.cpu(), "step_size": step_size.cpu(), "active": active.cpu()}
    expected = reference.pgd_step(x_adv.cpu(), x.cpu(), grad.cpu(), **on_cpu, **settings)
    # The reference rounds each element's room to the samples' dtype first. What many elements lose or gain by
    # that, a few others may have to make up for.
    room = 4 + ULP[dtype] / ULP[compute_dtype(dtype)] / 4
    longest = expected.double().abs().max() + 1 if x.numel() else 0
    assert_near(out, expected, room * longest, dtype, roundings=2)


@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_any_memory_format_gives_the_contiguous_result(dtype, norm, device):
    x_adv, x, grad = step_inputs((3, 4, 5, 6), dtype, device)
    shown = {"norm": norm, "pixels": norm == 0}
    ball = {"eps": radius_of(norm, x.shape) / 2, **shown}

    def results(x_adv, x, grad):
        yield ops.project(grad, **ball)
        yield ops.project(grad, **ball, x=x, bounds=(0.0, 1.0))
        yield ops.pgd_step(x_adv, x, grad, step_size=0.3, **ball)
        if norm != 0:
            yield ops.steepest(grad, norm)
            yield ops.random_in_ball(x, ball["eps"], norm, seed=1)

    plain = list(results(x_adv, x, grad))
    for name in layouts(x):
        tensors = [layouts(tensor)[name] for tensor in (x_adv, x, grad)]
        expected = plain if name != "expanded" else results(*(t.contiguous() for t in tensors))
        for out, contiguous in zip(results(*tensors), expected, strict=True):
            assert_near(out, contiguous.cpu(), contiguous.cpu().double().abs().max(), dtype)
