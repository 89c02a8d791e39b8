import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fastadv.defenses.linear import certify, robust_loss
from fastadv.defenses.linear_training import fit_lbfgs, fit_sgd

NORMS = [1, 1.5, 2, 20, math.inf]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(classes=None, samples=120, features=8):
    """Overlapping classes, of which the first features say most and the last say nothing."""
    y = torch.arange(samples) % (classes or 2)
    centres = normal(classes or 2, features, seed=3) * torch.linspace(1.5, 0, features)
    x = centres[y] + normal(samples, features, seed=4)
    return x, 2 * y - 1 if classes is None else y


def mean_loss(fitted, x, y, eps, norm):
    return robust_loss(*fitted, x, y, eps, norm).mean().item()


def split_oracle(x, y, eps):
    """The least robust loss for norm inf: with w = u - v and u, v >= 0 the 1-norm is linear."""
    x, y, size = x.numpy(), y.numpy(), x.shape[1]

    def objective(parameters):
        u, v, b = parameters[:size], parameters[size:-1], parameters[-1]
        margin = y * (x @ (u - v) + b) - eps * (u + v).sum()
        slope = -1 / (1 + np.exp(margin)) / len(y)
        natural = x.T @ (slope * y)
        worst = eps * slope.sum()
        gradient = np.concatenate((natural - worst, -natural - worst, [(slope * y).sum()]))
        return np.logaddexp(0, -margin).mean(), gradient

    bounds = [(0, None)] * (2 * size) + [(None, None)]
    found = minimize(objective, np.zeros(2 * size + 1), jac=True, bounds=bounds, method="L-BFGS-B",
                     options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10})  # fmt: skip
    return found.fun


@pytest.mark.parametrize("eps", [0.05, 0.2, 0.4])
def test_lbfgs_finds_the_minimum_that_a_solver_without_kinks_finds(eps):
    x, y = data()
    best = split_oracle(x, y, eps)
    found = mean_loss(fit_lbfgs(x, y, eps=eps), x, y, eps, math.inf)
    assert best * (1 - 1e-6) <= found <= best * (1 + 1e-4)


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_no_weights_nearby_and_none_that_sgd_finds_have_a_smaller_loss(classes, norm):
    x, y = data(classes)
    w, b = fit_lbfgs(x, y, eps=0.3, norm=norm, classes=classes)
    best = mean_loss((w, b), x, y, 0.3, norm)
    assert w.shape == ((8,) if classes is None else (classes, 8))
    for seed in range(100):
        for size in (1e-2, 1e-1, 1):
            near = (w + size * normal(*w.shape, seed=seed), b + size * normal(*b.shape, seed=seed + 500))
            assert mean_loss(near, x, y, 0.3, norm) > best - 1e-5
    sgd = fit_sgd(x, y, eps=0.3, norm=norm, classes=classes, epochs=300, batch_size=60, learning_rate=0.1)
    assert best - 1e-5 < mean_loss(sgd, x, y, 0.3, norm) < best * 1.05


def test_where_no_weights_withstand_the_attack_they_are_nearly_zero():
    x, y = data()
    w, _ = fit_lbfgs(x, y, eps=10)
    assert w.abs().max() < 1e-3
    assert fit_lbfgs(x, y, eps=0.01)[0].abs().max() > 0.5


@pytest.mark.parametrize("norm", NORMS)
def test_natural_and_robust_training_are_each_better_at_what_they_minimise(norm):
    x, y = data()
    natural, robust = (fit_lbfgs(x, y, eps=eps, norm=norm) for eps in (0, 0.4))
    assert mean_loss(natural, x, y, 0, norm) < mean_loss(robust, x, y, 0, norm) - 1e-3
    assert mean_loss(robust, x, y, 0.4, norm) < mean_loss(natural, x, y, 0.4, norm) - 1e-3


def test_robust_training_leaves_features_that_an_attack_can_turn_over():
    y = torch.arange(400) % 2 * 2 - 1
    x = torch.stack((y + 0.5 * normal(400), 0.2 * y + 0.02 * normal(400, seed=1)), dim=1)
    natural, robust = (fit_lbfgs(x, y, eps=eps) for eps in (0, 0.4))
    right = [(certify(*fitted, x, y, math.inf) > 0).sum().item() for fitted in (natural, robust)]
    certified = [(certify(*fitted, x, y, math.inf) > 0.4).sum().item() for fitted in (natural, robust)]
    assert right[0] == 400 and right[1] > 380
    assert certified[0] < 100 and certified[1] > 300
    assert robust[0][1].abs() < 1e-3 * robust[0][0]


def test_the_units_of_the_samples_do_not_matter():
    x, y = data()
    w, b = fit_lbfgs(x, y, eps=0.2, l2=0.1)
    scaled, shift = fit_lbfgs(1024 * x, y, eps=0.2 * 1024, l2=0.1 * 1024**2)
    torch.testing.assert_close((1024 * scaled, shift), (w, b))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0, 0.05])
@pytest.mark.filterwarnings("error")
def test_one_feature_in_far_larger_units_or_far_from_zero_does_not_end_the_search_early(norm, eps):
    x, y = data()
    best = mean_loss(fit_lbfgs(x, y, eps=eps, norm=norm), x, y, eps, norm)
    wide, far = x.clone(), x.clone()
    wide[:, 0] *= 1e5  # as easily learned, and an attack has less effect
    far[:, 0] += 1e5  # the same problem with another b
    assert mean_loss(fit_lbfgs(wide, y, eps=eps, norm=norm), wide, y, eps, norm) <= best + 1e-5
    found = mean_loss(fit_lbfgs(far, y, eps=eps, norm=norm), far, y, eps, norm)
    assert found == pytest.approx(best, abs=1e-5)


def test_a_search_that_ends_short_of_the_minimum_warns():
    x, y = data()
    with pytest.warns(RuntimeWarning, match=r"^fit_lbfgs: the search ended .* raise max_iter \(now 1\)"):
        fit_lbfgs(x, y, eps=0.1, max_iter=1)


@pytest.mark.parametrize("learning_rate", [1e308, 1e200])
def test_sgd_whose_weights_overflow_says_so(learning_rate):
    x, y = data()
    with pytest.raises(ValueError, match=r"^fit_sgd: the weights are no longer finite .* learning_rate"):
        fit_sgd(1e150 * x, y, eps=0.1, learning_rate=learning_rate)


def test_a_penalty_shrinks_the_weights():
    x, y = data()
    for fit in (fit_lbfgs, fit_sgd):
        sizes = [fit(x, y, eps=0, l2=l2)[0].norm() for l2 in (0, 0.1, 1)]
        assert sizes[0] > 1.1 * sizes[1] > 1.21 * sizes[2]


def test_a_step_of_sgd_is_the_survey_s_formula():
    x, y = data()
    y = y.double()
    w, b = fit_sgd(x, y, eps=0.2, epochs=1, batch_size=120, learning_rate=0.5)
    torch.testing.assert_close(
        w, 0.5 * (y[:, None] * x).mean(0) / 2
    )  # at w = 0: sgn(0) = 0, and all pull by half
    torch.testing.assert_close(b, 0.5 * y.mean() / 2)
    again, shift = fit_sgd(x, y, eps=0.2, epochs=2, batch_size=120, learning_rate=0.5)
    pull = torch.sigmoid(-(y * (x @ w + b)) + 0.2 * w.abs().sum())
    expected = w + 0.5 * ((pull * y) @ x / 120 - 0.2 * pull.mean() * w.sign())
    torch.testing.assert_close(again, expected)
    torch.testing.assert_close(shift, b + 0.5 * (pull * y).mean())


def test_sgd_repeats_with_its_seed_and_leaves_the_global_generator():
    x, y = data()
    state, steps = torch.get_rng_state(), []
    first = fit_sgd(x, y, eps=0.1, epochs=2, batch_size=50, on_step=lambda *step: steps.append(step))
    torch.testing.assert_close(fit_sgd(x, y, eps=0.1, epochs=2, batch_size=50), first, rtol=0, atol=0)
    assert not torch.equal(fit_sgd(x, y, eps=0.1, epochs=2, batch_size=50, seed=1)[0], first[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert steps == [(step, 6) for step in range(1, 7)]


@pytest.mark.parametrize("fit", [fit_lbfgs, fit_sgd])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(0, 3)}, "x must be finite floating-point samples"),
        ({"x": torch.full((2, 3), math.nan)}, "x must be finite floating-point samples"),
        ({"x": torch.zeros(2, 3).long()}, "x must be finite floating-point samples"),
        ({"eps": -1}, "eps must be finite and at least 0, got -1"),
        ({"l2": math.inf}, "l2 must be finite and at least 0, got inf"),
        ({"norm": 0.5}, r"norm must be a number in \[1, inf\], got 0.5"),
        ({"classes": 1}, "classes must be at least 2, or None, got 1"),
    ],
)
def test_bad_settings_are_refused(fit, change, message):
    arguments = {"x": torch.zeros(2, 3), "y": torch.tensor([1, -1]), "eps": 0.1, **change}
    with pytest.raises(ValueError, match=f"^{fit.__name__}: {message}"):
        fit(arguments.pop("x"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize(
    ("fit", "setting"),
    [(fit_lbfgs, "max_iter"), (fit_sgd, "epochs"), (fit_sgd, "batch_size")],
)
@pytest.mark.parametrize("bad", [0, 1.5, True])
def test_counts_below_one_are_refused(fit, setting, bad):
    x, y = data()
    with pytest.raises(
        ValueError, match=f"^{fit.__name__}: {setting} must be an integer of at least 1, got {bad}"
    ):
        fit(x, y, eps=0.1, **{setting: bad})


@pytest.mark.parametrize("bad", [None, 1.5, -1, True, 2**63])
def test_a_seed_that_is_none_is_refused(bad):
    with pytest.raises(
        ValueError, match=r"^fit_sgd: seed must be an int in \[0, 2\^63\) or a Generator, got"
    ):
        fit_sgd(*data(), eps=0.1, seed=bad)


def test_the_same_seed_gives_the_same_weights_whatever_kind_of_number_it_is():
    expected = fit_sgd(*data(), eps=0.1, epochs=2, batch_size=7, seed=3)
    for actual, same in zip(
        fit_sgd(*data(), eps=0.1, epochs=2, batch_size=7, seed=np.int64(3)), expected, strict=True
    ):
        assert torch.equal(actual, same)
    other, _ = fit_sgd(*data(), eps=0.1, epochs=2, batch_size=7, seed=torch.Generator().manual_seed(3))
    assert not torch.equal(other, expected[0])


@pytest.mark.parametrize("norm", [1, 1.5, 2, math.inf])
@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e100])
def test_the_minimum_is_found_in_whatever_units_the_samples_are(scale, norm):
    x, y = data()
    w, b = fit_lbfgs(x, y, eps=0.1, norm=norm)
    scaled, shift = fit_lbfgs(x * scale, y, eps=0.1 * scale, norm=norm)
    torch.testing.assert_close(scaled * scale, w, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shift, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [2, math.inf])
def test_weights_that_no_float_can_hold_are_refused(norm):
    x, y = data()
    with pytest.raises(ValueError, match=r"^fit_lbfgs: the weights are no longer finite: .* scale x up$"):
        fit_lbfgs(x * 1e-310, y, eps=1e-311, norm=norm)
