import math

import pytest
import torch

from fastadv.defenses import KWTA, activation_pattern
from fastadv.evaluation.activation_patterns import (
    patterns_by_angle,
    patterns_by_width,
    shared_in_the_limit,
)

RULES = (0.02, 0.1, 0.3, None)


@pytest.fixture(scope="module")
def by_width():
    return patterns_by_width([2**n for n in range(4, 15, 2)], (1e-4, 1e-2), RULES, draws=64)


@pytest.fixture(scope="module")
def by_angle():
    return patterns_by_angle((0, 10, 30, 60, 90, 120, 180), RULES, width=8192, draws=16)


def test_the_wider_a_layer_is_the_more_often_neighbours_have_other_patterns(by_width):
    growth = by_width.differ.diff(dim=-1)
    assert (growth >= -3 * math.sqrt(0.5 / 64)).all()  # three standard deviations of a difference
    assert (by_width.differ[..., 0] < 0.5).all()
    assert (by_width.differ[..., -1] > 0.85).all()


def test_a_relu_s_pattern_differs_where_a_unit_turns_on_as_well_as_where_one_turns_off():
    width, angle = 4, math.atan(0.3)
    differ = patterns_by_width([width], [0.09], [None], draws=20_000).differ.item()
    # Each unit keeps its sign with probability 1 - angle / pi.
    assert differ == pytest.approx(1 - (1 - angle / math.pi) ** width, abs=4 * math.sqrt(0.25 / 20_000))


def test_the_farther_a_neighbour_is_the_sooner_its_pattern_differs(by_width):
    near, far = by_width.differ.unbind(1)
    assert (far >= near).all()
    assert (far.sum(-1) > near.sum(-1) + 0.5).all()


def test_the_part_of_the_winners_exchanged_tends_to_its_limit_which_is_larger_for_a_small_gamma(by_width):
    for i, rule in enumerate(RULES):
        for j, beta in enumerate(by_width.betas):
            limit = 1 - shared_in_the_limit(math.degrees(math.atan(beta**0.5)), rule)
            assert by_width.exchanged[i, j, -1].item() == pytest.approx(limit, rel=0.15)
    last = by_width.exchanged[..., -1]
    assert (last[:-1] > last[1:]).all()


def test_the_larger_the_angle_the_less_patterns_share_and_k_wta_shares_less_than_relu(by_angle):
    assert (by_angle.shared[:, 0] == 1).all()
    assert (by_angle.shared.diff(dim=-1) <= 0).all()
    assert (by_angle.shared[:, 1:-2].diff(dim=0) > 0).all()  # gamma 0.02 < 0.1 < 0.3 < ReLU
    assert (by_angle.shared[:, -1] == 0).all()


def test_what_is_shared_is_what_theory_says_of_an_infinite_width(by_angle):
    for i, rule in enumerate(RULES):
        for j, angle in enumerate(by_angle.angles):
            assert by_angle.shared[i, j].item() == pytest.approx(shared_in_the_limit(angle, rule), abs=0.02)


def test_at_a_fixed_gamma_patterns_do_not_become_disjoint_however_wide_the_layer_is():
    shared = [patterns_by_angle((60,), (0.1,), width=width, draws=64).shared.item() for width in (256, 65536)]
    assert shared == pytest.approx([shared_in_the_limit(60, 0.1)] * 2, abs=0.03)
    assert shared_in_the_limit(60, 0.1) > 0.3


def test_patterns_become_disjoint_as_gamma_falls():
    shared = [shared_in_the_limit(60, gamma) for gamma in (1e-1, 1e-3, 1e-6, 1e-9, 1e-12)]
    assert shared == sorted(shared, reverse=True)
    assert shared[-1] < 1e-4


@pytest.mark.parametrize("gamma", [0.001, 0.1, 0.5, 0.7, 1.0])
def test_the_limit_has_its_known_values(gamma):
    assert shared_in_the_limit(0, gamma) == pytest.approx(1, abs=1e-4)
    assert shared_in_the_limit(90, gamma) == pytest.approx(gamma, abs=1e-4)  # independent: chance
    assert shared_in_the_limit(180, gamma) == pytest.approx(max(0, 2 - 1 / gamma), abs=1e-4)
    assert shared_in_the_limit(60, None) == pytest.approx(2 / 3, abs=1e-6)  # (180 - angle) / 180


@pytest.mark.parametrize("beta", [1e-2, 1.0])
def test_drawing_weights_in_the_plane_of_both_inputs_is_drawing_a_whole_layer(beta):
    generator = torch.Generator().manual_seed(0)
    inputs, width = 12, 20_000
    x = torch.randn(inputs, generator=generator)
    u = torch.randn(inputs, generator=generator)
    u = u - (u @ x) / (x @ x) * x
    neighbour = x + math.sqrt(beta) * x.norm() * u / u.norm()
    layer = torch.nn.Linear(inputs, width, bias=False)
    torch.nn.init.normal_(layer.weight, generator=generator)
    on, still = activation_pattern(torch.nn.Sequential(layer, KWTA(0.1)), torch.stack([x, neighbour]))["1"]
    exchanged = (on & ~still).sum().item() / on.sum().item()
    measured = patterns_by_width([width], [beta], [0.1], draws=8).exchanged.item()
    assert exchanged == pytest.approx(measured, rel=0.15)


def test_one_seed_gives_one_measurement_and_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    first = patterns_by_width([64, 128], [1e-2], [0.1, None], draws=8, seed=3)
    assert torch.equal(
        patterns_by_width([64, 128], [1e-2], [0.1, None], draws=8, seed=3).differ, first.differ
    )
    other = patterns_by_width([128], [1e-2], [0.1, None], draws=8, seed=3)
    assert torch.equal(other.exchanged[..., 0], first.exchanged[..., 1])  # whatever else is measured
    assert not torch.equal(
        patterns_by_width([64, 128], [1e-2], [0.1, None], draws=8, seed=4).exchanged, first.exchanged
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_is_told_and_ends_with_everything_done():
    steps = []
    patterns_by_width([16, 32], draws=2, on_step=lambda *step: steps.append(step))
    patterns_by_angle([0, 10, 20], width=16, draws=2, on_step=lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: patterns_by_width([0]), "patterns_by_width: expected widths and draws of at least 1"),
        (lambda: patterns_by_width([8], draws=0), "patterns_by_width: expected widths and draws of at least"),
        (lambda: patterns_by_width([8], [-1]), "betas of at least 0"),
        (lambda: patterns_by_width([8], rules=[0.0]), r"gamma must be in \(0, 1\]"),
        (lambda: patterns_by_angle(width=0), "patterns_by_angle: expected a width and draws of at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, message):
    with pytest.raises(ValueError, match=message):
        measure()
