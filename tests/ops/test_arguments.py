"""Bad arguments are refused in one line that names function, argument, what was expected and what came."""

import math

import pytest
import torch

from fastadv import ops
from tests.ops.inputs import step_inputs

STEP = {"eps": 0.1, "step_size": 0.1}


def three(**replaced):
    x_adv, x, grad = step_inputs((3, 4), torch.float32, "cpu")
    return {"x_adv": x_adv, "x": x, "grad": grad} | STEP | replaced


@pytest.mark.parametrize("step", [ops.pgd_step, ops.pgd_step_])
@pytest.mark.parametrize(
    ("replaced", "error", "message"),
    [
        ({"x": torch.zeros(3, 5)}, RuntimeError, r"x must have the shape of x_adv, \[3, 4\], got \[3, 5\]"),
        ({"grad": torch.zeros(3, 4, 1)}, RuntimeError, r"grad must have the shape of x_adv"),
        ({"grad": torch.zeros(3, 4, dtype=torch.half)}, RuntimeError, "grad must have the dtype of x_adv"),
        ({"x": torch.zeros(3, 4, device="meta")}, RuntimeError, "x must be on the device of x_adv"),
        (
            {"x_adv": torch.zeros(3, 4, dtype=torch.int64)},
            RuntimeError,
            "x_adv must be float32, float64, float16",
        ),
        ({"x_adv": torch.tensor(1.0)}, RuntimeError, "x_adv must have a batch dimension, got a scalar"),
        ({"eps": -0.1}, ValueError, "eps must be at least 0, got -0.1"),
        ({"eps": True}, TypeError, "eps must be a number or a tensor, got True"),
        ({"step_size": True}, TypeError, "step_size must be a number or a tensor, got True"),
        ({"norm": 1, "spread": True}, TypeError, "spread must be an integer, got True"),
        ({"eps": "2/255"}, TypeError, "eps must be a number or a tensor, got '2/255'"),
        (
            {"norm": "inf"},
            ValueError,
            "norm must be 0, at least 1, inf, or one of 'linf', 'l2', 'l1', 'l0', got 'inf'",
        ),
        ({"bounds": (0.0, 1.0, 2.0)}, ValueError, r"bounds must be \(lower, upper\)"),
        ({"eps": math.nan}, ValueError, "eps must be at least 0, got nan"),
        ({"eps": torch.zeros(2)}, RuntimeError, r"eps must have shape \[\] or \[3\], got \[2\]"),
        ({"step_size": -1}, ValueError, "step_size must be at least 0, got -1"),
        (
            {"step_size": torch.zeros(3, 1)},
            RuntimeError,
            r"step_size must have shape \[\] or \[3\], got \[3, 1\]",
        ),
        ({"norm": -1}, ValueError, "norm must be 0, at least 1, .*, got -1"),
        ({"norm": 0.5}, ValueError, "norm must be 0, at least 1, .*, got 0.5"),
        ({"norm": True}, ValueError, "norm must be 0, at least 1, .*, got True"),
        ({"norm": math.nan}, ValueError, "norm must be 0, at least 1, .*, got nan"),
        ({"bounds": (1.0, 0.0)}, ValueError, r"bounds must be \(lower, upper\) with lower < upper"),
        ({"bounds": 5}, ValueError, r"bounds must be \(lower, upper\) with lower < upper"),
        ({"bounds": ("0", "1")}, ValueError, r"bounds must be \(lower, upper\) with lower < upper"),
        ({"bounds": (False, True)}, ValueError, r"bounds must be \(lower, upper\) with lower < upper"),
        ({"rule": "sign"}, ValueError, "rule must be 'steepest' or 'gradient', got 'sign'"),
        ({"active": torch.ones(3)}, RuntimeError, "active must be"),
        (
            {"active": torch.ones(4, dtype=torch.bool)},
            RuntimeError,
            r"active must have shape \[3\], got \[4\]",
        ),
    ],
)
def test_a_step_refuses(step, replaced, error, message, backend):
    with pytest.raises(error, match=rf"fastadv::{step.__name__}: {message}") as raised:
        step(**three(**replaced))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"best": torch.zeros(3, 4)}, "best and better must come together"),
        (
            {"best": torch.zeros(3, 5), "better": torch.ones(3).bool()},
            "best must have the shape of x_adv",
        ),
        ({"best": torch.zeros(3, 4), "better": torch.ones(3)}, "better must be"),
    ],
)
def test_a_place_for_the_best_iterates_that_does_not_fit_is_refused(keep, message, backend):
    with pytest.raises(RuntimeError, match=f"fastadv::pgd_step_: {message}"):
        ops.pgd_step_(**three(), **keep)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.project(torch.zeros(2, 3), -1.0, 2),
            ValueError,
            "project: eps must be at least 0, got -1",
        ),
        (
            lambda: ops.project(torch.zeros(2, 3), 1.0, 0.5),
            ValueError,
            "project: norm must be 0, at least",
        ),
        (
            lambda: ops.project(torch.zeros(2, 3), torch.ones(3), 2),
            RuntimeError,
            r"project: eps must have shape",
        ),
        (
            lambda: ops.random_in_ball(torch.zeros(2, 3), 0.1, seed=True),
            ValueError,
            r"random_in_ball: seed must be in \[0, 2\^63\), its offset in \[0, 2\^32\), got True",
        ),
        (lambda: ops.kwta(torch.zeros(2, 3), True), TypeError, "kwta: k must be an integer, got True"),
        (
            lambda: ops.add_noise(torch.zeros(2, 3), True, seed=0, scale=1.0),
            TypeError,
            "add_noise: draws must be an integer, got True",
        ),
        (
            lambda: ops.add_noise(torch.zeros(2, 3), 2, seed=0, scale=True),
            ValueError,
            "add_noise: scale must be",
        ),
        (lambda: ops.steepest(torch.zeros(3).int(), 2), RuntimeError, "steepest: grad must be float32"),
        (
            lambda: ops.steepest(torch.zeros(2, 3), 0),
            ValueError,
            "steepest: norm must be at least 1, ",
        ),
        (
            lambda: ops.random_in_ball(torch.zeros(2, 3), 0.1, seed=-1),
            ValueError,
            r"random_in_ball: seed must be in \[0, 2\^63\), its offset in \[0, 2\^32\), got -1",
        ),
        (
            lambda: ops.random_in_ball(torch.zeros(2, 3), 0.1, seed=torch.tensor([1])),
            RuntimeError,
            r"random_in_ball: seed must be int64 of shape \[2\]",
        ),
        (
            lambda: ops.random_in_ball(torch.zeros(2, 3), 0.1, seed=1, ids=torch.zeros(2)),
            RuntimeError,
            "random_in_ball: ids must be",
        ),
    ],
)
def test_an_operator_refuses(call, error, message, backend):
    with pytest.raises(error, match=rf"fastadv::{message}"):
        call()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (None, 1.0), (0.0, None)])
def test_the_projection_itself_refuses_bounds_without_x(bounds, device):
    delta, eps = torch.zeros(2, 3, device=device), torch.tensor(1.0)
    message = r"^fastadv::project: lower and upper are bounds of x \+ u: give x too"
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastadv.project(delta, eps, 2.0, None, *bounds)
    torch.ops.fastadv.project(delta, eps, 2.0, torch.zeros_like(delta), *bounds)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({0: torch.tensor(1.0)}, "x_adv must have a batch dimension, got a scalar"),
        ({0: torch.zeros(3, 4).long(), 1: torch.zeros(3, 4).long(), 2: torch.zeros(3, 4).long()}, "got Long"),
        ({5: 0.5}, r"norm must be 0 or in \[1, inf\], got 0.5"),
        ({6: 1.0, 7: 0.0}, "lower must be less than upper, got 1 and 0"),
        ({3: torch.tensor(0.1, dtype=torch.float64)}, "eps must be float32"),
    ],
)
def test_the_kernel_itself_refuses_when_called_directly(replaced, message):
    x = torch.zeros(3, 4)
    arguments = [x, x, x, torch.tensor(0.1), torch.tensor(0.1), math.inf, 0.0, 1.0]
    for index, value in replaced.items():
        arguments[index] = value
    with pytest.raises(RuntimeError, match=f"^fastadv::pgd_step: .*{message}") as raised:
        torch.ops.fastadv.pgd_step(*arguments)
    assert "\n" not in str(raised.value)
