import math

import pytest
import torch
import typer

from fastadv.cli.options import parse_device, parse_eps, parse_norm, parse_step_size


@pytest.mark.parametrize(
    ("text", "eps"),
    [("2/255", 2 / 255), ("0.5/255", 0.5 / 255), ("0.03", 0.03), ("1e-2", 0.01), ("3/4", 0.75)],
)
def test_eps_is_a_number_or_a_fraction(text, eps):
    assert parse_eps(text, math.inf) == eps


@pytest.mark.parametrize("text", ["", "two", "1/0", "1/2/3", "0", "-1/255", "inf", "nan", "/255", "2/"])
def test_eps_that_is_none_is_refused(text):
    with pytest.raises(typer.BadParameter, match="expected a positive number or fraction such as 2/255"):
        parse_eps(text, 2)


def test_eps_in_levels_is_taken_for_the_slip_it_is():
    with pytest.raises(typer.BadParameter, match="did you mean 8/255"):
        parse_eps("8", math.inf)
    assert parse_eps("8", 2) == 8


@pytest.mark.parametrize(
    ("text", "eps", "hint"),
    [
        (
            "8",
            8 / 255,
            r"2 eps = 0\.0627 wide, and a step of 8 leaves it from anywhere; did you mean 8/255\?$",
        ),
        ("2", 0.5, r"; did you mean 2/255\?$"),
        ("17/255", 8 / 255, "leaves it from anywhere$"),
        ("90", 8 / 255, "leaves it from anywhere$"),
        ("-1", 8, "--step-size: expected a positive number or fraction such as 2/255, got '-1'$"),
    ],
)
def test_a_step_that_is_longer_than_the_ball_is_wide_is_taken_for_the_slip_it_is(text, eps, hint):
    with pytest.raises(typer.BadParameter, match=hint):
        parse_step_size(text, eps, math.inf)


@pytest.mark.parametrize(
    ("text", "eps", "step_size"),
    [("2/255", 8 / 255, 2 / 255), ("16/255", 8 / 255, 16 / 255), ("0.6", 0.3, 0.6), ("5", 8, 5)],
)
def test_a_step_within_the_ball_is_what_was_asked_for(text, eps, step_size):
    assert parse_step_size(text, eps, math.inf) == step_size


def test_a_step_of_norm_0_may_be_of_any_length_since_eps_counts_elements():
    assert parse_step_size("12", 5, 0) == 12


def test_norms_go_by_their_number_or_their_name():
    assert [parse_norm(text) for text in ("inf", "linf", "Linf", "2", "l2")] == [math.inf] * 3 + [2, 2]
    assert [parse_norm(text) for text in ("l1", "1", "1.5", "l0", "0")] == [1, 1, 1.5, 0, 0]
    for text in ("two", "-1", "0.5", "nan", ""):
        with pytest.raises(typer.BadParameter, match="expected inf, 2, 1, 0 or another number"):
            parse_norm(text)


def test_a_device_that_is_not_there_is_refused_in_one_line():
    assert parse_device("cpu") == torch.device("cpu")
    assert parse_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for text in ("gpu", "cuda:99"):
        with pytest.raises(typer.BadParameter, match=f"cannot use '{text}'") as error:
            parse_device(text)
        assert "\n" not in str(error.value)
