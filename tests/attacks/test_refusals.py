"""What every attack refuses, in one line that names it."""

import math
from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from fastadv import Evolution
from tests.attacks.every_attack import MINIMAL_NORM, every_attack
from tests.attacks.nets import BatchInvariant, samples

pytestmark = every_attack

REFUSED = [
    (
        {"x": torch.zeros(2, 3, dtype=torch.uint8)},
        TypeError,
        "x must be a floating-point tensor, got torch.uint8",
    ),
    ({"x": torch.zeros(3)}, ValueError, r"x must be a batch \[B, ...\], got shape \[3\]"),
    ({"x": torch.tensor([[0.1, math.nan], [0, 0]])}, ValueError, "x must be finite"),
    ({"x": torch.full((2, 3), 1.5)}, ValueError, r"x must lie within bounds \(0.0, 1.0\), got \[1.5, 1.5\]"),
    ({"y": torch.tensor([0.0, 1.0])}, TypeError, "y must be int64, got torch.float32"),
    ({"y": [0, 1]}, TypeError, "y must be an int64 tensor, got list"),
    ({"y": torch.tensor([0, 1, 2])}, ValueError, r"y must have shape \[2\], got \[3\]"),
    ({"y": torch.tensor([0, 5])}, ValueError, "y must be classes 0 .. 4, got 0 .. 5"),
    ({"target": True}, TypeError, "target must be an int64 tensor, got bool"),
    ({"target": torch.tensor([-1, 0])}, ValueError, "target must be classes 0 .. 4, got -1 .. 0"),
    ({"ids": torch.tensor([0, 1, 2])}, ValueError, r"ids must have shape \[2\], got \[3\]"),
    ({"model": lambda x: x.sum(1)}, ValueError, r"model must return logits \[2, K\] with K >= 2, got \[2\]"),
    ({"model": lambda x: (x, x)}, TypeError, r"model must return a tensor of logits \[B, K\], got tuple"),
    ({"model": lambda x: x / 0}, ValueError, "model returned NaN or infinite logits"),
]


@pytest.mark.parametrize(("replaced", "error", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_bad_arguments_are_refused_in_one_line_naming_the_attack(make, replaced, error, message):
    attack = make()
    arguments = {"model": BatchInvariant(3), "x": samples(2, 3), "y": torch.tensor([0, 1])} | replaced
    if "model" in replaced:  # these models have three classes; the samples are theirs and not yet solved
        arguments["y"] = arguments["x"].argmax(1)
    with pytest.raises(error, match=f"^{type(attack).__name__}: .*{message}") as raised:
        attack.run(**arguments)
    assert "\n" not in str(raised.value)


def test_a_model_that_lets_no_gradient_through_is_refused_unless_gradients_come_from_evaluations(make):
    attack, x = make(), samples(6, 3)
    if isinstance(attack.gradient, Evolution):
        assert attack.run(lambda x: x.detach(), x, x.argmax(1)).success.any()
    else:
        with pytest.raises(ValueError, match=r"^model: no gradient reaches x"):
            attack.run(lambda x: x.detach(), x, x.argmax(1))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"eps": -1.0}, "eps must be finite and at least 0, got -1.0"),
        ({"eps": math.nan}, "eps must be finite and at least 0, got nan"),
        ({"eps": math.inf}, "eps must be finite and at least 0, got inf"),
        ({"norm": 0.5}, "norm must be 0, at least 1, inf, or one of 'linf', 'l2', 'l1', 'l0', got 0.5"),
        ({"norm": "inf"}, "norm must be 0, at least 1, inf, or one of .*, got 'inf'"),
        ({"bounds": (0.0, 1.0, 2.0)}, r"bounds must be \(lower, upper\)"),
        ({"loss": None}, "loss must be a callable or one of"),
        ({"bounds": (1.0, 0.0)}, r"bounds must be \(lower, upper\)"),
        ({"autocast": torch.int8}, "autocast must be torch.float16, torch.bfloat16 or None"),
        ({"chunk": 0}, "chunk must be an integer of at least 1, got 0"),
        ({"chunk": True}, "chunk must be an integer of at least 1, got True"),
        ({"seed": True}, r"seed must be an int in \[0, 2\^63\) or a Generator, got True"),
        ({"eps": 10.7, "norm": 0}, "eps counts elements for norm 0 and must be a whole number, got 10.7"),
        ({"eps": 0.5, "norm": "l0"}, "eps counts elements for norm 0 and must be a whole number, got 0.5"),
        ({"loss": "hinge"}, "loss must be a callable or one of ce, margin, dlr, logit_gap, got 'hinge'"),
    ],
)
def test_bad_fields_are_refused_when_the_attack_is_made(make, field, message):
    if make in MINIMAL_NORM.values() and field.keys() & {"eps", "norm", "loss"}:
        pytest.skip("has no such field, or other values: see its own tests")
    with pytest.raises(ValueError, match=message):
        make(**field)


@pytest.mark.parametrize(
    "bounds", [5, "01", ("0", "1"), (False, True), (0.0, True), (0.0, math.nan), (0.0,), {0.0, 1.0}]
)
def test_bounds_that_are_not_two_numbers_are_refused_when_the_attack_is_made(make, bounds):
    with pytest.raises(
        ValueError, match=r": bounds must be \(lower, upper\) with lower < upper, got"
    ) as raised:
        make(bounds=bounds)
    assert "\n" not in str(raised.value)


def test_no_number_of_an_attack_or_its_gradient_can_be_true(make):
    parts = [make()]
    while parts:
        part = parts.pop()
        held = {field.name: getattr(part, field.name) for field in fields(part) if field.init}
        parts += [value for value in held.values() if is_dataclass(value)]
        for name, value in held.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                with pytest.raises((TypeError, ValueError), match=f"{name} must be .*, got True"):
                    replace(part, **{name: True})
