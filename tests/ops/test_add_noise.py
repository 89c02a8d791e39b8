"""add_noise: the stated distributions, the same numbers everywhere, one stream for each sample and draw."""

import math

import pytest
import torch

from fastadv import ops, reference
from tests.ops.inputs import DTYPES, SHAPES, ULP, poison, step_inputs

KINDS = ["normal", "uniform", "sign"]


def noise(kind, device, draws=7, rows=30, cols=997, **options):
    """[draws, rows, cols] float64 on the CPU, of scale 1."""
    x = torch.zeros(rows, cols, device=device)
    return ops.add_noise(x, draws, kind=kind, scale=1.0, bounds=None, seed=5, **options).double().cpu()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_draws_the_references_noise(shape, dtype, kind, device, native):
    """Uniform and sign noise bit for bit; normals, whose logarithms differ, to 1e-6 and a rounding."""
    x = step_inputs(shape, dtype, device)[1]
    poison(torch.empty(3, *shape, dtype=dtype, device=device))
    arguments = {"kind": kind, "scale": 0.2, "seed": (11, 3), "first_draw": 5}
    out = ops.add_noise(x, 3, **arguments)
    expected = reference.add_noise(x.cpu(), 3, **arguments)
    assert out.is_contiguous()
    if kind == "normal":
        assert torch.allclose(out.double().cpu(), expected.double(), rtol=0, atol=max(ULP[dtype], 2e-7))
    else:
        assert torch.equal(out.cpu(), expected)


def test_normals_are_the_references_to_one_in_a_million(device, native):
    exact = reference.add_noise(torch.zeros(30, 997, dtype=torch.float64), 7, scale=1.0, bounds=None, seed=5)
    assert (noise("normal", device) - exact).abs().max() < 1e-6


def test_noise_is_independent_of_a_random_start_with_the_same_seed(device, backend):
    zeros = torch.zeros(30, 997, device=device)
    start = ops.random_in_ball(zeros, 1.0, bounds=None, seed=5).double().cpu()
    z = noise("uniform", device, draws=1)[0]
    assert not (z == start).any()
    assert (3 * z * start).mean().abs() < 5 / math.sqrt(z.numel())


@pytest.mark.parametrize(
    ("kind", "variance", "fourth"), [("normal", 1, 3), ("uniform", 1 / 3, 1 / 5), ("sign", 1, 1)]
)
def test_moments_are_those_of_the_distribution(kind, variance, fourth, device, backend):
    z = noise(kind, device).flatten()
    count = len(z)
    assert z.mean().abs() < 5 * math.sqrt(variance / count)
    assert (z.square().mean() - variance).abs() <= 5 * math.sqrt(max(fourth - variance**2, 0) / count)
    assert (z**3).mean().abs() < 5 * math.sqrt(15 / count)
    assert abs((z**4).mean() - fourth) <= 5 * math.sqrt(96 / count) * (kind != "sign")


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_distribution_passes_kolmogorov_and_smirnov(kind, device, backend):
    z = noise(kind, device).flatten().sort().values
    cdf = torch.special.ndtr(z) if kind == "normal" else (z + 1) / 2
    steps = torch.linspace(0, 1, len(z) + 1, dtype=torch.float64)
    statistic = torch.maximum(cdf - steps[:-1], steps[1:] - cdf).max()
    assert statistic < 1.95 / math.sqrt(len(z))  # p = 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_samples_and_draws_are_uncorrelated(kind, device, backend):
    z = noise(kind, device)
    z = z / z.std()
    for a, b in (
        (z[..., :-1], z[..., 1:]),  # a pair of Box and Muller's, or two
        (z[..., :-4], z[..., 4:]),  # blocks of Philox
        (z[:, :-1], z[:, 1:]),
        (z[:-1], z[1:]),
    ):
        assert (a * b).mean().abs() < 5 / math.sqrt(a.numel())
        assert ((a.square() - 1) * (b.square() - 1)).mean().abs() < 15 / math.sqrt(a.numel())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cols", [1, 3, 300, 20011])
def test_draws_do_not_depend_on_chunks_batch_mates_or_threads(kind, cols, device, backend):
    x = step_inputs((5, cols), torch.float32, device)[1]
    whole = ops.add_noise(x, 6, kind=kind, scale=0.1, seed=3)
    later = ops.add_noise(x, 2, kind=kind, scale=0.1, seed=3, first_draw=4)
    assert torch.equal(later, whole[4:])
    order = torch.tensor([4, 1], device=device)
    assert torch.equal(ops.add_noise(x[order], 6, kind=kind, scale=0.1, seed=3, ids=order), whole[:, order])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(ops.add_noise(x, 6, kind=kind, scale=0.1, seed=3), whole)
    finally:
        torch.set_num_threads(threads)


def test_seeds_offsets_samples_and_draws_all_give_different_noise(device, backend):
    x = torch.zeros(3, 40, device=device)
    seeds = [1, 2, (1, 1), torch.tensor([1, 2], device=device)]
    copies = torch.cat([ops.add_noise(x, 4, scale=1.0, bounds=None, seed=s).flatten(0, 1) for s in seeds])
    assert len({tuple(copy.tolist()) for copy in copies}) == len(seeds) * 4 * 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_added_in_the_compute_dtype_and_cut_off_by_the_box(kind, dtype, device, backend):
    x = step_inputs((4, 200), dtype, device)[1]
    unit = noise(kind, device, draws=3, rows=4, cols=200)
    out = ops.add_noise(x, 3, kind=kind, scale=0.5, bounds=(0.25, 0.75), seed=5)
    expected = (x.double().cpu() + 0.5 * unit).clamp(0.25, 0.75)
    assert out.dtype == dtype
    assert torch.allclose(out.double().cpu(), expected, rtol=0, atol=max(ULP[dtype] / 2, 1e-7))


@pytest.mark.parametrize("bounds", [(0.2, 0.8), None])
def test_derivative_is_one_for_each_copy_inside_the_box(bounds, device, backend):
    x = step_inputs((3, 5), torch.float64, device)[1].requires_grad_()

    def copies(x):
        return ops.add_noise(x, 4, scale=0.3, bounds=bounds, seed=2)

    torch.autograd.gradcheck(copies, x)
    out = copies(x)
    inside = torch.ones_like(out) if bounds is None else (out > bounds[0]) & (out < bounds[1])
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad, inside.sum(0).double())


def test_a_nan_stays_one(device, backend):
    x = torch.tensor([[0.5, math.nan]], device=device)
    out = ops.add_noise(x, 3, scale=0.1, seed=0)
    assert out[..., 1].isnan().all()
    assert out[..., 0].isfinite().all()


def test_the_operator_itself_refuses_a_scale_that_is_none(device, native):
    x, seed = torch.zeros(2, 3, device=device), torch.tensor([0, 0], device=device)
    for scale in (-1.0, math.nan):
        with pytest.raises(RuntimeError, match="fastadv::add_noise: scale must be at least 0"):
            torch.ops.fastadv.add_noise(x, 2, "normal", scale, 0.0, 1.0, seed)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"draws": 0}, ValueError, "draws must be at least 1, got 0"),
        ({"draws": 1.5}, TypeError, "draws must be an integer, got 1.5"),
        ({"kind": "gauss"}, ValueError, "kind must be 'normal', 'uniform' or 'sign', got 'gauss'"),
        ({"scale": -1.0}, ValueError, "scale must be a finite number of at least 0, got -1"),
        ({"scale": math.inf}, ValueError, "scale must be a finite number of at least 0, got inf"),
        ({"draws": 2**31}, ValueError, "draws must be at most 2147483647"),
        ({"seed": (1, 2, 3)}, ValueError, r"seed must be in \[0, 2\^63\)"),
        ({"bounds": (1, 0)}, ValueError, r"bounds must be \(lower, upper\)"),
        ({"seed": -1}, ValueError, r"seed must be in \[0, 2\^63\)"),
        ({"first_draw": -1}, ValueError, "first_draw must be at least 0, got -1"),
        ({"ids": torch.zeros(3, dtype=torch.int64)}, RuntimeError, r"ids must have shape \[2\], got \[3\]"),
        ({"x": torch.zeros(2, 2, dtype=torch.int32)}, RuntimeError, "x must be float32"),
    ],
)
def test_add_noise_refuses(arguments, error, message, backend):
    given = {"x": torch.zeros(2, 4), "draws": 2, "scale": 0.1, "seed": 0} | arguments
    with pytest.raises(error, match=f"fastadv::add_noise: {message}"):
        ops.add_noise(given.pop("x"), given.pop("draws"), **given)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_0_wherever_a_copy_lies_on_an_end_of_the_box(dtype, device, backend):
    x = torch.linspace(0, 1, 64, dtype=dtype, device=device).repeat(4, 1).requires_grad_()
    out = ops.add_noise(x, 16, scale=0.01, seed=1)
    out.sum().backward()
    assert torch.equal(x.grad, ((out > 0) & (out < 1)).sum(0).to(dtype))
