import math

import pytest
import torch

from fastadv.evaluation.relu_net import maxima, relu_net_slices, uphill


def test_the_line_is_the_surface_s_middle_and_the_sample_is_classified_right():
    slices = relu_net_slices(points=41)
    assert torch.equal(slices.line, slices.surface[:, 20])
    assert slices.ticks[20] == 0 and slices.ticks[0] == -slices.ticks[-1] == -3
    assert slices.surface.shape == (41, 41)
    assert 0 < slices.line[20] < math.log(2)


def test_the_loss_is_the_logistic_one_of_a_piecewise_linear_net():
    slices = relu_net_slices(units=3, reach=50, points=1001)
    outputs = slices.surface.expm1().log()  # log(exp(softplus(z)) - 1) = z
    bends = outputs.diff(2, dim=0).abs() > 1e-6
    assert 0 < bends.sum(0).max() <= 2 * 3  # a kink of each unit, between two points of the grid


def test_the_loss_is_not_concave_and_ascent_often_ends_below_its_maximum():
    default = relu_net_slices()
    assert default.line.diff(2).max() > 0.001
    assert maxima(default.line) > 1
    assert default.line[default.ends] < default.line[default.best] - 0.01
    several = [relu_net_slices(seed=seed, points=61) for seed in range(100)]
    short = sum(bool(slices.line[slices.ends] < slices.line[slices.best]) for slices in several)
    assert 0.2 < short / 100 < 0.4  # of 1,000 seeds it is 0.303
    for slices in several:
        around = slices.line[max(slices.ends - 1, 0) : slices.ends + 2]
        assert slices.line[slices.ends] == around.max()
        assert slices.line[slices.best] == slices.line.max()


def test_uphill_and_maxima_on_lines_that_can_be_read():
    line = torch.tensor([5.0, 1, 2, 3, 2, 2, 7, 6])
    assert [uphill(line, start) for start in range(8)] == [0, 0, 3, 3, 3, 6, 6, 6]
    assert maxima(line) == 3
    assert maxima(torch.tensor([1.0, 2, 2, 1, 1, 3])) == 2
    assert maxima(torch.tensor([3.0, 1, 3])) == 2
    assert maxima(torch.ones(4)) == 1


def test_a_seed_repeats_and_leaves_the_global_generator():
    state = torch.get_rng_state()
    first, second = relu_net_slices(seed=1, points=5), relu_net_slices(seed=1, points=5)
    assert torch.equal(first.surface, second.surface)
    assert not torch.equal(first.surface, relu_net_slices(seed=2, points=5).surface)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": 0}, "units must be an integer of at least 1, got 0"),
        ({"points": 1}, "points must be an integer of at least 3, got 1"),
        ({"points": 4}, "points must be odd, got 4"),
        ({"reach": math.inf}, "reach must be positive and finite, got inf"),
        ({"reach": 0}, "reach must be positive and finite, got 0"),
    ],
)
def test_bad_numbers_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^relu_net_slices: {message}"):
        relu_net_slices(**change)
