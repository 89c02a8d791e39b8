"""pgd_step in every norm: the move, the exact projection, ball and box, independence of samples."""

import math

import pytest
import torch

from fastadv import ops
from tests.ops.inputs import DTYPES, step_inputs
from tests.ops.norms import norm_of

NORMS = [0.0, 1.0, 1.5, 3.0, 50.0]
EPS = {0.0: 5.0, 1.0: 2.0, 1.5: 1.0, 3.0: 0.5, 50.0: 0.2}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rule", ["steepest", "gradient"])
def test_a_step_is_the_move_and_the_exact_projection_on_ball_and_box(rule, norm, device, backend):
    x_adv, x, grad = step_inputs((4, 3, 5, 7), torch.float64, device)
    step = {"eps": EPS[norm], "step_size": 0.3, "norm": norm, "rule": rule}
    direction = grad if rule == "gradient" else ops.steepest(grad, norm or 2)
    moved = x_adv - x + 0.3 * direction
    expected = x + ops.project(moved, EPS[norm], norm, x=x, bounds=(0.0, 1.0))
    if (norm, rule) != (1, "steepest"):
        assert torch.allclose(ops.pgd_step(x_adv, x, grad, **step), expected, rtol=0, atol=1e-12)
    else:  # the one with the largest gradient has no room, and others take its part
        inside = x.clamp(0.4, 0.6)
        out = ops.pgd_step(inside, inside, grad, **step)
        assert torch.allclose(out, inside + 0.3 * direction, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step_size", [0.0, 0.2, 1e30, math.inf])
def test_result_is_in_ball_and_box_whatever_the_step(step_size, dtype, norm, device, backend):
    x_adv, x, grad = step_inputs((4, 3, 9, 11), dtype, device, radius=0.5)
    for eps in (0.0, 0.3, EPS[norm]):
        out = ops.pgd_step(x_adv, x, grad, eps=eps, step_size=step_size, norm=norm)
        assert out.min() >= 0
        assert out.max() <= 1
        delta = out.double() - x.double()
        known = torch.tensor(eps, dtype=torch.float64 if dtype == torch.float64 else torch.float32).item()
        length = (delta != 0).flatten(1).sum(1) if norm == 0 else norm_of(delta, norm)
        assert (length <= known).all()


@pytest.mark.parametrize("spread", [1, 3, 10, 1000])
def test_the_l1_step_goes_to_the_largest_gradients_that_have_room(spread, device, backend):
    """A linear program, solved by hand: from the largest gradient on, min(room, step_size / spread)."""
    x_adv, x, grad = step_inputs((5, 60), torch.float64, device)
    out = ops.pgd_step(x_adv, x, grad, eps=1e3, step_size=0.9, norm=1, spread=spread) - x_adv
    for i in range(5):
        left = 0.9
        expected = torch.zeros(60, dtype=torch.float64, device=device)
        for j in sorted(range(60), key=lambda j: -abs(grad[i, j].item())):
            g, at = grad[i, j].item(), x_adv[i, j].item()
            room = (1 - at if g > 0 else at) if g != 0 else 0.0
            take = min(room, 0.9 / spread, left)
            left -= take
            expected[j] = math.copysign(take, g)
        assert torch.allclose(out[i], expected, rtol=0, atol=1e-12)


def test_the_l1_step_does_not_stall_at_the_box(device, backend):
    x = torch.tensor([[1.0, 0.2, 0.5]], device=device)
    grad = torch.tensor([[9.0, 3.0, 1.0]], device=device)
    out = ops.pgd_step(x, x, grad, eps=1.0, step_size=0.9, norm="l1")
    assert torch.allclose(out, torch.tensor([[1.0, 1.0, 0.6]], device=device), atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_samples_do_not_notice_each_other_nor_those_that_are_inactive(norm, device, backend):
    x_adv, x, grad = step_inputs((5, 3, 9, 7), torch.float32, device)
    active = torch.tensor([True, False, True, True, False], device=device)
    eps = torch.tensor([0.0, 1.0, 2.0, 0.5, 9.0], device=device)
    out = ops.pgd_step(x_adv, x, grad, eps=eps, step_size=0.1, norm=norm, active=active)
    assert torch.equal(out[~active], x_adv[~active])
    for i in (0, 2, 3):
        part = slice(i, i + 1)
        alone = ops.pgd_step(x_adv[part], x[part], grad[part], eps=eps[part], step_size=0.1, norm=norm)
        assert torch.equal(out[part], alone)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rule", ["steepest", "gradient"])
def test_gradients_that_are_no_numbers_move_nothing(rule, norm, device, backend):
    x_adv, x, grad = step_inputs((3, 40), torch.float32, device)
    grad[1, 7], grad[2, 3] = math.nan, math.inf
    out = ops.pgd_step(x_adv, x, grad, eps=50.0, step_size=0.02, norm=norm, rule=rule)
    assert torch.allclose(out[1:], x_adv[1:], rtol=0, atol=1e-7)
    assert (out[0] != x_adv[0]).any()


@pytest.mark.parametrize("norm", NORMS)
def test_in_place_equals_functional_and_keeps_the_better_iterates(norm, device, backend):
    x_adv, x, grad = step_inputs((3, 3, 10, 10), torch.float32, device)
    step = {"eps": EPS[norm], "step_size": 0.03, "norm": norm, "spread": 4 if norm == 1 else 1}
    expected, before = ops.pgd_step(x_adv, x, grad, **step), x_adv.clone()
    best, better = torch.zeros_like(x), torch.tensor([True, False, True], device=device)
    returned = ops.pgd_step_(x_adv, x, grad, **step, best=best, better=better)
    assert returned is x_adv
    assert torch.equal(x_adv, expected)
    assert torch.equal(best[better], before[better])
    assert torch.count_nonzero(best[~better]) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"norm": 2, "spread": 3}, ValueError, "spread is for norm 1, got norm 2 and spread 3"),
        ({"norm": 1, "spread": 0}, ValueError, "spread must be at least 1, got 0"),
        ({"norm": 1, "spread": 1.5}, TypeError, "spread must be an integer, got 1.5"),
        ({"norm": 2, "pixels": True}, ValueError, "pixels is for norm 0, got norm 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, error, message, backend):
    x = torch.zeros(2, 3)
    with pytest.raises(error, match=f"fastadv::pgd_step: {message}"):
        ops.pgd_step(x, x, x, eps=1.0, step_size=0.1, **arguments)
