"""random_in_ball: uniform in the volume, the same on every device, whatever the batch."""

import math

import pytest
import torch

from fastadv import ops, reference
from tests.ops.inputs import DTYPES, NORMS, SHAPES, ULP, l2, poison, step_inputs


def test_philox_is_the_published_generator():
    """Known answers of Philox4x32-10 from the authors' Random123 distribution (kat_vectors)."""
    zero = torch.zeros(1, dtype=torch.int64)
    words = reference.random_words(torch.tensor([0, 0]), zero, zero)
    assert [f"{w:08x}" for w in words.flatten().tolist()] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    ones = torch.tensor([-1])
    words = reference.random_words(torch.tensor([-1, 0xFFFFFFFF]), ones, torch.tensor([0xFFFFFFFF]))
    assert [f"{w:08x}" for w in words.flatten().tolist()] == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_draws_the_references_points(shape, dtype, norm, device, native):
    x = step_inputs(shape, dtype, device)[1]
    poison(x)
    out = ops.random_in_ball(x, 0.3, norm, seed=11)
    expected = reference.random_in_ball(x.cpu(), 0.3, norm, seed=11)
    if norm == math.inf:
        assert torch.equal(out.cpu(), expected)
    else:
        assert torch.allclose(out.double().cpu(), expected.double(), rtol=0, atol=max(ULP[dtype], 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_points_are_in_ball_and_box(norm, dtype, device, backend):
    x = step_inputs((6, 3, 20, 20), dtype, device)[1]
    for eps in (0.0, 0.03, 0.7):
        out = ops.random_in_ball(x, eps, norm, seed=3)
        assert out.min() >= 0
        assert out.max() <= 1
        if norm == math.inf:
            assert (out - x).abs().max() <= eps
        else:
            known = torch.tensor(eps, dtype=torch.float64 if dtype == torch.float64 else torch.float32).item()
            assert (l2(out.double() - x.double()) <= known).all()


@pytest.mark.parametrize("dimensions", [1, 2, 3, 30])
def test_l2_points_are_uniform_in_the_volume(dimensions, device, backend):
    """(radius / eps)^d is uniform, and the direction has no preferred axis."""
    count = 20000
    centre = torch.zeros(count, dimensions, device=device)
    points = ops.random_in_ball(centre, 2.0, 2, bounds=None, seed=5).double()
    volume = (l2(points) / 2.0) ** dimensions
    statistic = (volume.sort().values.cpu() - torch.linspace(0, 1, count, dtype=torch.float64)).abs().max()
    assert statistic < 1.95 / math.sqrt(count)  # Kolmogorov-Smirnov, p = 0.001
    expected = 4.0 / (dimensions + 2)  # E[x_i^2] of the ball of radius 2
    assert torch.allclose(points.square().mean(0), torch.full_like(points[0], expected), rtol=0.06)
    assert points.mean(0).abs().max() < 5 * math.sqrt(expected / count)


def test_linf_points_are_uniform_in_the_cube(device, backend):
    points = (
        ops.random_in_ball(torch.zeros(50, 1001, device=device), 0.5, bounds=None, seed=5).flatten().cpu()
    )
    uniform = torch.linspace(-0.5, 0.5, points.numel())
    assert (points.sort().values - uniform).abs().max() < 1.95 / math.sqrt(points.numel())
    pairs = points.reshape(50, 1001)
    assert torch.corrcoef(torch.stack((pairs[:, :-1].flatten(), pairs[:, 1:].flatten())))[0, 1].abs() < 0.02


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [5, 900, 17000])
def test_a_samples_point_depends_on_its_id_alone(size, norm, device, backend):
    x = step_inputs((5, size), torch.float32, device)[1]
    whole = ops.random_in_ball(x, 0.3, norm, seed=9)
    order = torch.tensor([3, 0, 4], device=device)
    assert torch.equal(ops.random_in_ball(x[order], 0.3, norm, seed=9, ids=order), whole[order])


def test_seeds_offsets_ids_and_samples_all_give_different_points(device, backend):
    x = torch.full((2, 64), 0.5, device=device)
    draws = [
        ops.random_in_ball(x, 0.1, seed=torch.tensor(s, device=device)) for s in ([1, 0], [1, 1], [2, 0])
    ]
    assert torch.equal(ops.random_in_ball(x, 0.1, seed=(1, 1)), draws[1])
    assert torch.equal(reference.random_in_ball(x, 0.1, seed=(1, 1)), draws[1])
    draws.append(ops.random_in_ball(x, 0.1, seed=1, ids=torch.tensor([2**32, 2**33], device=device)))
    points = torch.cat(draws)
    assert len({tuple(point.tolist()) for point in points}) == len(points)


def test_memory_format_does_not_change_the_point(device, backend):
    x = step_inputs((2, 3, 8, 8), torch.float32, device)[1]
    last = x.to(memory_format=torch.channels_last)
    out = ops.random_in_ball(last, 0.2, seed=1)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, ops.random_in_ball(x, 0.2, seed=1))


def test_the_global_generator_is_not_touched(device, backend):
    state = torch.cuda.get_rng_state if device == "cuda" else torch.get_rng_state
    x = torch.full((2, 9), 0.5, device=device)
    before = state()
    ops.random_in_ball(x, 0.1, seed=1)
    assert torch.equal(state(), before)
