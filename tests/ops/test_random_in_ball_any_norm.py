"""random_in_ball for norms besides 2 and inf: uniform in the volume, inside, whatever the batch."""

import math

import pytest
import torch

from fastadv import ops
from fastadv.reference.philox import exponential_power
from tests.ops.inputs import DTYPES, step_inputs
from tests.ops.norms import norm_of

NORMS = [1.0, 1.3, 3.0, 20.0]


def ks_statistic(sample, cdf):
    """The Kolmogorov-Smirnov distance, times the root of the sample's size: above 1.95 with p = 0.001."""
    ordered = cdf(sample.double().flatten().sort().values.cpu())
    return (ordered - torch.linspace(0, 1, len(ordered), dtype=torch.float64)).abs().max() * len(
        ordered
    ) ** 0.5


@pytest.mark.parametrize("norm", [1.0, 1.01, 1.3, 2.0, 3.0, 20.0])
def test_exponential_power_numbers_have_their_density(norm):
    """|t|^p is of the Gamma(1 / p) distribution, and signs are fair."""
    numbers = exponential_power(torch.tensor([3, 0]), torch.arange(100), 300, norm).double()
    shape = torch.tensor(1 / norm, dtype=torch.float64)
    assert ks_statistic(numbers.abs() ** norm, lambda t: torch.special.gammainc(shape, t)) < 1.95
    assert abs((numbers > 0).double().mean() - 0.5) < 3.3 * 0.5 / 30000**0.5


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dimensions", [1, 2, 30])
def test_points_are_uniform_in_the_volume(dimensions, norm, device, backend):
    """(||delta|| / eps)^n is uniform, and no axis nor side is preferred."""
    count = 10_000
    centre = torch.zeros(count, dimensions, device=device)
    points = ops.random_in_ball(centre, 2.0, norm, bounds=None, seed=5).double()
    volume = (norm_of(points, norm) / 2.0) ** dimensions
    assert ks_statistic(volume, lambda t: t) < 1.95
    # E|x_i|^p of the uniform distribution is eps^p / (n + p), by symmetry n / (n + p) in all.
    moments = (points.abs() / 2.0).pow(norm).mean(0).cpu()
    expected = 1 / (dimensions + norm)
    assert torch.allclose(moments, torch.full_like(moments, expected), rtol=0.1)
    spread = points.std(0).max().item()
    assert points.mean(0).abs().max() < 5 * spread / count**0.5
    assert ((points > 0).double().mean(0) - 0.5).abs().max() < 5 * 0.5 / count**0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_points_are_in_ball_and_box(norm, dtype, device, backend):
    x = step_inputs((4, 3, 9, 9), dtype, device)[1]
    for eps in (0.0, 0.3, 5.0):
        out = ops.random_in_ball(x, eps, norm, seed=3)
        assert out.min() >= 0
        assert out.max() <= 1
        known = torch.tensor(eps, dtype=torch.float64 if dtype == torch.float64 else torch.float32).item()
        assert (norm_of(out.double() - x.double(), norm) <= known).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_point_belongs_to_its_sample_whatever_the_batch(norm, device, backend):
    x = step_inputs((5, 33), torch.float32, device)[1]
    whole = ops.random_in_ball(x, 0.3, norm, seed=9)
    order = torch.tensor([3, 0, 4], device=device)
    assert torch.equal(ops.random_in_ball(x[order], 0.3, norm, seed=9, ids=order), whole[order])


@pytest.mark.parametrize("norm", [1.0, 1.5, 50.0, 1e6, 1e300])
def test_a_single_element_is_uniform_for_any_norm(norm, device, backend):
    points = ops.random_in_ball(torch.zeros(5000, 1, device=device), 1.0, norm, bounds=None, seed=2)
    assert points.isfinite().all()
    assert ks_statistic(points, lambda t: (t + 1) / 2) < 1.95


def test_norm_0_has_no_uniform_points_and_is_refused(backend):
    with pytest.raises(ValueError, match=r"random_in_ball: norm must be at least 1, .*, got 0"):
        ops.random_in_ball(torch.zeros(2, 3), 1.0, 0, seed=0)


def test_names_mean_their_norms(device, backend):
    x = step_inputs((2, 9), torch.float32, device)[1]
    for name, norm in (("l1", 1), ("l2", 2), ("linf", math.inf)):
        assert torch.equal(ops.random_in_ball(x, 0.1, name, seed=0), ops.random_in_ball(x, 0.1, norm, seed=0))
