import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fastadv.attacks import PGD, CarliniWagner
from fastadv.defenses.linear import (
    certify,
    dual_norm,
    linear_model,
    robust_loss,
    robust_margin,
    worst_case,
)

DUAL = {1: math.inf, 1.5: 3, 2: 2, 3: 1.5, math.inf: 1}
NORMS = list(DUAL)
ATTACKED = [1, 1.5, 2, 3, math.inf]


def pgd(model, x, y, norm, reach, bounds=None):
    """Towards each other class: the margin's own ascent may be drawn to one that is farther away."""
    classes = model(x[:1]).shape[1]
    attack = PGD(eps=reach, norm=norm, bounds=bounds, steps=100, loss="logit_gap")
    found = [attack.run(model, x, y, target=(y + shift) % classes) for shift in range(1, classes)]
    wrong = [model(result.x_adv).argmax(1) != y for result in found]
    distances = [result.distance for result in found]
    return torch.where(torch.stack(wrong), torch.stack(distances), math.inf).amin(0)


ATTACKS = [pgd]
"""Each: (model, x, y, norm, how far it may go [B], bounds) -> the least distance at which it succeeds [B],
infinity where it does not. A new attack joins here."""


def lp(values, norm):
    return torch.linalg.vector_norm(values, norm, dim=-1)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def game(classes=None, samples=40, features=9, seed=0):
    """(w, b, x, y): most samples classified right, with margins of all sizes."""
    x = 0.5 + 0.15 * normal(samples, features, seed=seed)
    if classes is None:
        w, b = normal(features, seed=seed + 1), 0.3
        w[2] = 0
        return w, b - w.sum().item() / 2, x, (x @ w + b - w.sum() / 2).sign()
    w, b = normal(classes, features, seed=seed + 1), normal(classes, seed=seed + 2)
    return w, b, x, (x @ w.T + b).argmax(1)


GAMES = pytest.mark.parametrize("classes", [None, 2, 4], ids=["binary", "K=2", "K=4"])


@pytest.mark.parametrize("norm", NORMS)
def test_the_worst_case_takes_eps_times_the_dual_norm_from_the_margin(norm):
    w, b, x, y = game()
    q = DUAL[norm]
    delta = worst_case(w, b, x, y, 0.3, norm)
    assert (lp(delta, norm) <= 0.3 * (1 + 1e-12)).all()
    change = y * ((x + delta) @ w + b) - y * (x @ w + b)
    torch.testing.assert_close(change, -0.3 * lp(w, q).expand(40), rtol=0, atol=1e-12)
    torch.testing.assert_close(robust_margin(w, b, x, y, 0.3, norm), y * ((x + delta) @ w + b))


@GAMES
@pytest.mark.parametrize("norm", NORMS)
def test_no_perturbation_in_the_ball_leaves_less_than_the_robust_margin(classes, norm):
    w, b, x, y = game(classes)
    eps = torch.linspace(0, 0.5, 40, dtype=torch.float64)
    worst = robust_margin(w, b, x, y, eps, norm)
    delta = worst_case(w, b, x, y, eps, norm)
    assert (lp(delta, norm) <= eps * (1 + 1e-12)).all()
    torch.testing.assert_close(robust_margin(w, b, x + delta, y, 0, norm), worst)
    tries = normal(500, 40, 9, seed=5)
    tries = tries / lp(tries, norm)[..., None] * eps[:, None]
    for other in tries:
        assert (robust_margin(w, b, x + other, y, 0, norm) >= worst - 1e-12).all()


@GAMES
@pytest.mark.parametrize("norm", NORMS)
def test_the_certified_radius_is_where_the_robust_margin_vanishes(classes, norm):
    w, b, x, y = game(classes)
    radius = certify(w, b, x, y, norm)
    assert radius.dtype == torch.float64 and (radius > 0).all()
    torch.testing.assert_close(
        robust_margin(w, b, x, y, radius, norm), torch.zeros_like(radius), rtol=0, atol=1e-12
    )
    model = linear_model(w, b)
    label = (y > 0).long() if classes is None else y
    inside, outside = (x + worst_case(w, b, x, y, radius * part, norm) for part in (1 - 1e-9, 1 + 1e-9))
    assert (model(inside).argmax(1) == label).all()
    assert (model(outside).argmax(1) != label).all()


@pytest.mark.parametrize("attack", ATTACKS)
@GAMES
@pytest.mark.parametrize("norm", ATTACKED)
def test_attacks_never_cross_a_certificate_and_meet_it_to_one_in_ten_thousand(attack, classes, norm):
    w, b, x, y = game(classes)
    model, label = linear_model(w, b), (y > 0).long() if classes is None else y
    radius = certify(w, b, x, y, norm)
    assert attack(model, x, label, norm, radius * (1 - 1e-9)).isinf().all()
    found = attack(model, x, label, norm, radius * (1 + 1e-4))
    assert (found >= radius * (1 - 1e-9)).all()
    assert (found <= radius * (1 + 1e-4)).all()


@GAMES
@pytest.mark.parametrize(
    ("attack", "reach"),
    [
        (CarliniWagner(norm=2, bounds=(-1, 2), steps=400, search_steps=12, lr=2e-3), 0.01),
        (CarliniWagner(norm=math.inf, bounds=(-1, 2), steps=200, lr=2e-3), 0.02),
    ],
    ids=["l2", "linf"],
)
def test_carlini_wagner_never_crosses_a_certificate_and_meets_it_as_closely_as_its_search_ends(
    attack, reach, classes
):
    w, b, x, y = game(classes)
    assert x.min() > attack.bounds[0] + 0.5 and x.max() < attack.bounds[1] - 0.5  # the box is far away
    model, label = linear_model(w, b), (y > 0).long() if classes is None else y
    radius = certify(w, b, x, y, attack.norm)
    count = model(x[:1]).shape[1]
    # Towards each other class, as with PGD: the nearest boundary need not be that of the second best.
    found = [attack.run(model, x, label, target=(label + shift) % count) for shift in range(1, count)]
    assert all(result.success.all() for result in found)
    assert all((model(result.x_adv).argmax(1) != label).all() for result in found)
    distance = torch.stack([result.distance for result in found]).amin(0)
    assert (distance >= radius * (1 - 1e-9)).all()
    assert (distance <= radius * (1 + reach)).all()


@GAMES
def test_in_a_box_the_certificate_is_a_lower_bound_and_with_bounds_it_is_exact(classes):
    w, b, x, y = game(classes)
    x = x.clamp(0.2, 0.8)
    box = (0.2, 0.8)
    keep = robust_margin(w, b, x, y, 0, math.inf) > 0
    x, y = x[keep], y[keep]
    model, label = linear_model(w, b), (y > 0).long() if classes is None else y
    free, boxed = certify(w, b, x, y, math.inf), certify(w, b, x, y, math.inf, bounds=box)
    assert (boxed >= free * (1 - 1e-12)).all() and (boxed > free * 1.01).any()
    reachable = boxed.isfinite()
    assert reachable.any()
    torch.testing.assert_close(
        robust_margin(w, b, x, y, boxed.clamp(max=9), math.inf, bounds=box)[reachable],
        torch.zeros_like(boxed[reachable]),
        rtol=0,
        atol=1e-12,
    )
    assert pgd(model, x, label, math.inf, boxed.clamp(max=9) * (1 - 1e-9), box).isinf().all()
    found = pgd(model, x, label, math.inf, boxed.clamp(max=9) * (1 + 1e-4), box)
    assert torch.equal(found.isfinite(), reachable)
    delta = worst_case(w, b, x, y, 0.25, math.inf, bounds=box)
    assert (x + delta).min() >= 0.2 - 1e-15 and (x + delta).max() <= 0.8 + 1e-15
    torch.testing.assert_close(
        robust_margin(w, b, x + delta, y, 0, math.inf), robust_margin(w, b, x, y, 0.25, math.inf, bounds=box)
    )


def test_what_no_step_in_the_box_can_reach_has_an_infinite_radius():
    w, x, y = torch.tensor([1.0, 0.0]).double(), torch.full((2, 2), 0.5).double(), torch.tensor([1, 1])
    radius = certify(w, torch.tensor(0.1), x, y, math.inf, bounds=(0, 1))
    assert radius.tolist() == [math.inf, math.inf]
    assert certify(w, -0.25, x, y, math.inf, bounds=(0, 1)).tolist() == [0.25, 0.25]


def test_the_radius_is_zero_for_mistakes_and_on_the_boundary_and_infinite_where_nothing_can_change():
    x = torch.zeros(2, 3).double()
    y = torch.tensor([1, -1])
    assert certify(torch.ones(3).double(), 0.6, x, y, 1).tolist() == [pytest.approx(0.6), 0]
    assert certify(torch.ones(3).double(), 0.0, x, y, 1).tolist() == [0, 0]
    assert certify(torch.zeros(3).double(), 0.5, x, y, 2).tolist() == [math.inf, 0]


def test_a_mistake_has_radius_zero_in_a_box_even_where_no_step_changes_the_gap():
    x = 0.5 + 0.1 * normal(2, 3).clamp(-4, 4)
    same = torch.zeros(3, dtype=torch.float64)
    label = torch.tensor([1, -1])
    assert certify(same, 1.0, x, label, math.inf, bounds=(0, 1)).tolist() == [math.inf, 0]
    assert certify(same, 0.0, x, label, math.inf, bounds=(0, 1)).tolist() == [0, 0]
    w, first = normal(3, 3, seed=1), torch.tensor([0, 0])
    w[1] = w[0]
    behind = torch.tensor([0.0, 1, 0], dtype=torch.float64)
    assert certify(w, behind, x, first, math.inf, bounds=(0, 1)).tolist() == [0, 0]


def test_two_classes_as_one_row_or_as_two_have_the_same_radii_and_losses():
    w, b, x, y = game()
    rows, biases = torch.stack((-w / 2, w / 2 + 0)), torch.tensor([-b / 2, b / 2]).double()
    label = (y > 0).long()
    for norm in NORMS:
        torch.testing.assert_close(certify(rows, biases, x, label, norm), certify(w, b, x, y, norm))
        one, two = robust_loss(w, b, x, y, 0.1, norm), robust_loss(rows, biases, x, label, 0.1, norm)
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("norm", NORMS)
def test_the_robust_loss_is_the_logistic_loss_in_the_worst_case(norm):
    w, b, x, y = game()
    worst = F.softplus(-y * ((x + worst_case(w, b, x, y, 0.3, norm)) @ w + b))
    torch.testing.assert_close(robust_loss(w, b, x, y, 0.3, norm), worst)
    torch.testing.assert_close(robust_loss(w, b, x, y, 0, norm), F.softplus(-y * (x @ w + b)))


@pytest.mark.parametrize("norm", NORMS)
def test_the_multi_class_robust_loss_bounds_the_cross_entropy_in_the_worst_case(norm):
    w, b, x, y = game(4)
    bound = robust_loss(w, b, x, y, 0.2, norm)
    worst = worst_case(w, b, x, y, 0.2, norm)
    directions = normal(200, 40, 9, seed=7)
    for delta in (worst, *(0.2 * directions / lp(directions, norm)[..., None])):
        assert (F.cross_entropy((x + delta) @ w.T + b, y, reduction="none") <= bound + 1e-12).all()
    gaps = F.cross_entropy((x + worst) @ w.T + b, y, reduction="none")
    assert (gaps > 0.5 * bound).any()  # not so far above that it says nothing
    torch.testing.assert_close(
        robust_loss(w, b, x, y, 0, norm), F.cross_entropy(x @ w.T + b, y, reduction="none")
    )


@pytest.mark.parametrize("norm", NORMS)
def test_danskin_the_gradient_is_that_at_the_frozen_worst_case(norm):
    w, b, x, y = game()  # one weight is 0, where the subgradient is sgn(0) = 0
    w, b = w.requires_grad_(), torch.tensor(b).double().requires_grad_()
    closed = torch.autograd.grad(robust_loss(w, b, x, y, 0.3, norm).mean(), (w, b))
    frozen = x + worst_case(w, b, x, y, 0.3, norm)
    at_worst = torch.autograd.grad(F.softplus(-y * (frozen @ w + b)).mean(), (w, b))
    for one, other in zip(closed, at_worst, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@GAMES
@pytest.mark.parametrize("norm", NORMS)
def test_the_robust_loss_is_convex_along_random_segments(classes, norm, smoothing):
    w, b, x, y = game(classes)
    b = torch.as_tensor(b, dtype=torch.float64)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for seed in range(10):
        ends = [3 * normal(*w.shape, seed=seed), w]
        biases = [normal(*b.shape, seed=seed + 50), b]
        along = torch.stack(
            [
                robust_loss(
                    *(s * u + (1 - s) * v for u, v in (ends, biases)), x, y, 0.3, norm, smoothing=smoothing
                )
                for s in t
            ]
        )
        assert (along.diff(2, dim=0) >= -1e-12).all()
        assert (along.diff(2, dim=0) > 1e-6).any()


def test_smoothing_lowers_the_norm_by_as_much_as_is_said_and_no_more():
    w, b, x, y = game()
    for norm, power in ((math.inf, 1), (2, 1 / 2), (1, 0)):
        exact = robust_loss(w, b, x, y, 0.3, norm)
        for s in (0.1, 0.001):
            smooth = robust_loss(w, b, x, y, 0.3, norm, smoothing=s)
            assert (smooth <= exact).all()
            assert (smooth >= exact - 0.3 * s * 9**power).all()  # the loss has slope at most 1


def test_each_element_can_be_smoothed_by_its_own():
    w, b, x, y = game()
    s = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    found = robust_loss(w, b, x, y, 0.3, math.inf, smoothing=s)
    norm = ((w.square() + s.square()).sqrt() - s).sum()
    torch.testing.assert_close(found, F.softplus(0.3 * norm - y * (x @ w + b)))


@given(st.floats(1, 60), st.floats(-250, 250))
@settings(deadline=None, max_examples=60)
def test_the_dual_norm_is_attained_and_scales_without_overflow(norm, exponent):
    scale = 10.0**exponent
    w = normal(1, 7)
    value = dual_norm(w * scale, norm)
    torch.testing.assert_close(value, dual_norm(w, norm) * scale, rtol=1e-9, atol=0)
    u = -worst_case(w[0], 0.0, w, torch.tensor([1]), 1, norm)
    assert lp(u, norm).item() == pytest.approx(1, abs=1e-9)
    assert (u * w).sum().item() == pytest.approx(dual_norm(w, norm).item(), rel=1e-9)


@pytest.mark.parametrize("norm", [*NORMS, 1.01])
def test_where_the_weights_are_zero_nothing_is_nan(norm):
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    x, y = normal(4, 3), torch.tensor([1, -1, 1, -1])
    robust_loss(w, 0.0, x, y, 0.5, norm).sum().backward()
    torch.testing.assert_close(w.grad, -(y[:, None] * x).sum(0) / 2)
    assert torch.equal(worst_case(w, 0.0, x, y, 0.5, norm), torch.zeros_like(x))


def test_the_module_answers_as_the_classifier_for_any_trailing_shape():
    w, b, x, y = game()
    model = linear_model(w, b)
    logits = model(x.view(40, 3, 3))
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], x @ w + b)
    assert ((logits.argmax(1) == 1) == (y > 0)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": torch.ones(1, 3).double()}, r"w must be \[D\] or \[K, D\] with K >= 2, got \[1, 3\]"),
        ({"w": torch.ones(3).long()}, "w must be a floating-point tensor, got torch.int64"),
        ({"b": torch.zeros(2)}, r"b must have shape \[\], got \[2\]"),
        ({"x": torch.zeros(2, 4).double()}, r"x must be \[B, 3\] as w is, got \[2, 4\]"),
        ({"x": torch.zeros(2, 3)}, "x must be torch.float64 on cpu as w is, got torch.float32 on cpu"),
        ({"y": torch.tensor([1])}, r"y must have shape \[2\], got \[1\]"),
        ({"y": torch.tensor([0, 1])}, "y must be -1 or .1 for two classes"),
        ({"w": torch.ones(2, 3).double(), "b": torch.zeros(2)}, r"y must be int64 classes 0 \.\. 1"),
        ({"norm": 0.5}, r"norm must be a number in \[1, inf\], got 0.5"),
        ({"norm": math.nan}, r"norm must be a number in \[1, inf\], got nan"),
        ({"norm": "two"}, r"norm must be a number in \[1, inf\], got 'two'"),
        ({"eps": -1.0}, "eps must be finite and at least 0, got -1.0"),
        ({"eps": torch.ones(3)}, r"eps must be a number or have shape \[2\], got \[3\]"),
        ({"bounds": (0, 1), "norm": 2}, "bounds have a closed form for norm inf only, got norm 2"),
        ({"bounds": (1, 0)}, r"bounds must be \(lower, upper\) with lower < upper, got \(1, 0\)"),
        ({"bounds": 5}, r"bounds must be \(lower, upper\) with lower < upper, got 5"),
        ({"bounds": (1, 2)}, r"x must lie within bounds \(1, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, message):
    arguments = {
        "w": torch.ones(3).double(),
        "b": 0.0,
        "x": torch.zeros(2, 3).double(),
        "y": torch.tensor([1, -1]),
        "eps": 0.1,
        "norm": math.inf,
        **change,
    }
    with pytest.raises((TypeError, ValueError), match=f"^worst_case: {message}") as raised:
        worst_case(**arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("function", [robust_margin, robust_loss, worst_case])
@pytest.mark.parametrize("wrong", [-0.5, math.nan, math.inf])
def test_a_radius_out_of_range_is_refused_whether_it_is_a_number_or_a_tensor(function, wrong):
    w, x, y = torch.ones(3), torch.zeros(2, 3), torch.tensor([1, -1])
    message = f"^{function.__name__}: eps must be finite and at least 0, got {wrong}$"
    for eps in (wrong, torch.tensor(wrong), torch.tensor([0.1, wrong])):
        with pytest.raises(ValueError, match=message):
            function(w, 0.0, x, y, eps, math.inf)
