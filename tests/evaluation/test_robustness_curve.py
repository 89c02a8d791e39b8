import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastadv import PGD, minimal_eps
from fastadv.evaluation.robustness_curve import RobustnessCurve, curve_figure
from fastadv.evaluation.statistics import Rate
from tests.attacks.nets import BatchInvariant, samples

SMALLEST = st.lists(st.floats(0, 2) | st.just(math.inf), min_size=1, max_size=30)


def curve(values, limit=2.0):
    return RobustnessCurve(torch.tensor(values, dtype=torch.float64), limit)


@given(SMALLEST, st.floats(0, 2))
def test_accuracy_is_the_part_of_the_samples_whose_smallest_eps_is_larger(values, eps):
    assert curve(values).at(eps) == Rate(sum(value > eps for value in values), len(values))


@given(SMALLEST)
def test_the_steps_are_the_whole_curve(values):
    where, rates = curve(values).steps()
    assert where == sorted({0.0, 2.0, *(value for value in values if value < math.inf)})
    for eps, until, rate in zip(where, [*where[1:], math.inf], rates, strict=True):
        assert curve(values).at(eps) == rate
        assert curve(values).at(min(2.0, math.nextafter(until, 0))) == rate
    assert [rate.value for rate in rates] == sorted((rate.value for rate in rates), reverse=True)


@given(SMALLEST)
def test_at_the_median_at_least_half_is_broken_and_before_it_less(values):
    median = curve(values).median
    if median == math.inf:
        assert curve(values).at(2.0).value > 0.5
    else:
        assert curve(values).at(median).value <= 0.5
        assert median == 0 or curve(values).at(math.nextafter(median, 0)).value > 0.5


def test_it_starts_at_the_clean_accuracy_and_ends_at_the_attack_s_own():
    model, x = BatchInvariant(20), samples(40, 20)
    y = model(x).argmax(1)
    y[:7] = (y[:7] + 1) % 5
    attack = PGD(eps=0.08, steps=5)
    found = RobustnessCurve(minimal_eps(attack, model, x, y).eps, limit=0.08)
    assert found.at(0) == Rate(33, 40)
    assert found.at(0.08) == Rate(int((~attack.run(model, x, y).success).sum()), 40)
    assert 0 < found.at(0.08).count < 33


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"eps must be \[n\] with n >= 1, got \[0\]"),
        ([[0.1]], r"eps must be \[n\] with n >= 1, got \[1, 1\]"),
        ([0.1, -0.1], "eps must be inf or from 0 to limit, 2, got -0.1"),
        ([2.5], "eps must be inf or from 0 to limit, 2, got 2.5"),
        ([math.nan], "eps must be inf or from 0 to limit, 2, got nan"),
    ],
)
def test_what_is_no_smallest_eps_is_refused(values, message):
    with pytest.raises(ValueError, match=f"RobustnessCurve: {message}"):
        curve(values)


@pytest.mark.parametrize("eps", [-0.1, 2.1, math.nan])
def test_nothing_is_said_beyond_what_was_tried(eps):
    with pytest.raises(ValueError, match=r"RobustnessCurve: eps must be in 0 .. 2, got"):
        curve([1.0]).at(eps)


def test_the_figure_steps_down_at_each_sample_s_eps_within_its_interval_and_marks_medians():
    weak, strong = curve([0.0, 0.5, 0.5, 1.0]), curve([1.5, math.inf, math.inf])
    (axes,) = curve_figure({"weak": weak, "strong": strong}, "linf").axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["weak (n=4)"].get_drawstyle() == "steps-post"
    assert lines["weak (n=4)"].get_xdata().tolist() == [0, 0.5, 1, 2]
    assert lines["weak (n=4)"].get_ydata().tolist() == [75, 25, 0, 0]
    assert lines["strong (n=3)"].get_ydata().tolist() == pytest.approx([100, 200 / 3, 200 / 3])
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_xydata().tolist() for dot in dots] == [[[0.5, 25]]]
    assert axes.get_xlabel() == "ε (linf)"
    assert axes.get_xlim() == (0, 2)
    band = axes.collections[0].get_paths()[0].vertices
    low, high = weak.at(0).interval()
    assert band[band[:, 0] == 0][:, 1].min() == pytest.approx(100 * low)
    assert band[band[:, 0] == 0][:, 1].max() == pytest.approx(100 * high)
