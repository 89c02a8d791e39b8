import math

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastadv.attacks import PGD
from fastadv.defenses import RobustLinearClassifier


def data(names, samples=200):
    """Clouds around points of the unit circle, which overlap a little."""
    generator = np.random.default_rng(0)
    index = np.arange(samples) % len(names)
    angle = 2 * np.pi * index / len(names)
    X = np.stack((np.cos(angle), np.sin(angle)), 1) + generator.normal(scale=0.4, size=(samples, 2))
    return X, np.array(names)[index]


TWO, THREE = ["no", "yes"], [3, 7, 5]


@pytest.mark.parametrize("names", [TWO, THREE])
@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_labels_of_any_kind_are_learned_and_given_back(names, solver):
    X, y = data(names)
    classifier = RobustLinearClassifier(eps=0.05, solver=solver, max_iter=50)
    assert classifier.fit(X, y) is classifier
    assert classifier.classes_.tolist() == sorted(names)
    assert classifier.score(X, y) == np.mean(classifier.predict(X) == y) > 0.85
    rows = 1 if names is TWO else 3
    assert classifier.coef_.shape == (rows, 2) and classifier.intercept_.shape == (rows,)
    values = classifier.decision_function(X)
    assert values.shape == ((200,) if names is TWO else (200, 3))
    index = (values > 0).astype(int) if names is TWO else values.argmax(1)
    assert (classifier.classes_[index] == classifier.predict(X)).all()


@pytest.mark.parametrize("names", [TWO, THREE])
def test_without_a_ball_it_is_logistic_regression(names):
    X, y = data(names)
    ours = RobustLinearClassifier(eps=0, l2=0.01).fit(X, y)
    theirs = LogisticRegression(C=1 / (0.01 * len(X)), tol=1e-9, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        ours.intercept_ - ours.intercept_.mean() * (names is THREE), theirs.intercept_, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("names", [TWO, THREE])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_the_worst_case_succeeds_exactly_beyond_the_certified_radius(names, norm):
    X, y = data(names)
    classifier = RobustLinearClassifier(eps=0.2, norm=norm).fit(X, y)
    radius = classifier.certify(X, y)
    assert ((radius > 0) == (classifier.predict(X) == y)).all()
    for eps in (None, 0.5):
        moved = X + classifier.worst_case(X, y, eps)
        held = classifier.predict(moved) == y
        assert (held == (radius > (0.2 if eps is None else eps))).all()
        assert classifier.robust_score(X, y, eps) == held.mean()
    assert classifier.robust_score(X, y, 0.5) < classifier.robust_score(X, y) < classifier.score(X, y)
    assert (classifier.certify(X) >= radius).all() and (classifier.certify(X) > 0).all()


def test_in_the_box_fewer_attacks_succeed():
    X, y = data(THREE)
    X = np.clip(X, -1, 1)
    classifier = RobustLinearClassifier(eps=0.1).fit(X, y)
    free, boxed = classifier.certify(X, y), classifier.certify(X, y, bounds=(-1, 1))
    assert (boxed >= free * (1 - 1e-12)).all() and (boxed > 1.1 * free).any()
    assert np.abs(X + classifier.worst_case(X, y, 0.5, bounds=(-1, 1))).max() <= 1
    assert classifier.robust_score(X, y, 0.5, bounds=(-1, 1)) == np.mean(boxed > 0.5) > np.mean(free > 0.5)


@pytest.mark.parametrize("names", [TWO, THREE])
def test_the_module_can_be_attacked_and_agrees_with_the_certificates(names):
    X, y = data(names)
    classifier = RobustLinearClassifier(eps=0.2).fit(X, y)
    model, x = classifier.module(), torch.from_numpy(X)
    label = torch.from_numpy(np.searchsorted(classifier.classes_, y))
    assert (classifier.classes_[model(x).argmax(1)] == classifier.predict(X)).all()
    result = PGD(eps=0.3, loss="margin", bounds=None).run(model, x, label)
    assert not result.success[torch.from_numpy(classifier.certify(X, y)) > 0.3].any()
    if names is TWO:
        assert result.success.double().mean().item() == pytest.approx(1 - classifier.robust_score(X, y, 0.3))


def test_it_drops_into_a_pipeline_a_grid_search_and_cross_validation():
    X, y = data(THREE)
    pipeline = make_pipeline(StandardScaler(), RobustLinearClassifier(max_iter=50))
    assert is_classifier(pipeline)
    assert cross_val_score(pipeline, X, y, cv=3).min() > 0.8
    search = GridSearchCV(
        pipeline,
        {"robustlinearclassifier__eps": [0.0, 0.3], "robustlinearclassifier__norm": [2, math.inf]},
        cv=3,
    )
    search.fit(X, y)
    assert search.score(X, y) > 0.85
    assert set(search.best_params_) == {"robustlinearclassifier__eps", "robustlinearclassifier__norm"}
    assert (search.predict(X) == search.best_estimator_.predict(X)).all()


def test_settings_are_read_changed_and_cloned_and_fit_keeps_them():
    classifier = RobustLinearClassifier(eps=0.1, norm=2)
    assert classifier.get_params()["eps"] == 0.1
    copy = clone(classifier.set_params(eps=0.3, solver="sgd"))
    assert copy is not classifier and copy.get_params() == classifier.get_params()
    assert (copy.eps, copy.norm, copy.solver) == (0.3, 2, "sgd")
    before = copy.get_params()
    assert copy.fit(*data(TWO)).get_params() == before
    assert not hasattr(clone(copy), "coef_")


def test_the_samples_stay_as_they_were_and_may_be_lists_or_integers():
    X, y = data(TWO)
    before = X.copy()
    classifier = RobustLinearClassifier(eps=0.1).fit(X.tolist(), list(y))
    X.flags.writeable = False
    np.testing.assert_array_equal(classifier.fit(X, y).coef_, RobustLinearClassifier(eps=0.1).fit(X, y).coef_)
    assert classifier.predict([[1, 0], [-1, 0]]).tolist() == ["no", "yes"]
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("names", [TWO, THREE])
def test_a_score_counts_samples_by_their_weights(names):
    X, y = data(names)
    classifier = RobustLinearClassifier(eps=0.1).fit(X, y)
    right, weight = classifier.predict(X) == y, np.arange(len(X))
    assert classifier.score(X, y, sample_weight=weight) == pytest.approx(
        (right * weight).sum() / weight.sum()
    )
    assert classifier.score(X, y, right) == 1
    assert classifier.score(X, y, np.ones(len(X))) == pytest.approx(classifier.score(X, y))


X, Y = [[0.0, 1.0], [1.0, 0.0]], [0, 1]


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_each_sample_can_have_its_own_radius_of_any_array_kind(kind):
    classifier = RobustLinearClassifier(l2=0.1).fit(X, Y)
    reach = classifier.certify(X, Y)
    assert classifier.robust_score(X, Y, kind([reach[0] + 0.1, reach[1] - 0.1])) == 0.5
    delta = classifier.worst_case(X, Y, kind([0.0, 0.25]))
    np.testing.assert_array_equal(delta[0], 0)
    np.testing.assert_array_equal(delta[1], classifier.worst_case(X, Y, 0.25)[1])
    assert abs(delta[1]).max() == 0.25


def test_one_radius_for_all_may_be_any_scalar():
    classifier = RobustLinearClassifier(l2=0.1).fit(X, Y)
    beyond = classifier.certify(X, Y).max() + 0.1
    for kind in (float, np.float32, torch.tensor, np.array):
        assert classifier.robust_score(X, Y, kind(beyond)) == 0.0
        assert classifier.robust_score(X, Y, kind(0.25)) == 1.0


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda c: c.set_params(epsilon=1), "set_params: no setting 'epsilon': there are eps, norm, solver"),
        (lambda c: c.set_params(solver="adam").fit(X, Y), "fit: solver must be 'lbfgs' or 'sgd', got 'adam'"),
        (lambda c: c.set_params(eps=-1).fit(X, Y), "fit_lbfgs: eps must be finite and at least 0, got -1"),
        (lambda c: c.fit([1.0, 2.0], Y), "fit: X must be [N, D] with N and D at least 1, got shape [2]"),
        (lambda c: c.fit([[math.nan, 1], [1, 2]], Y), "fit: X must be finite, got NaN or infinity"),
        (lambda c: c.fit(X, [0]), "fit: y must have shape [2] as X has rows, got [1]"),
        (lambda c: c.fit(X, [[0], [1]]), "fit: y must have shape [2] as X has rows, got [2, 1]"),
        (lambda c: c.fit(X, [0.5, 1.0]), "fit: y must be classes, not continuous values, got 0.5"),
        (lambda c: c.fit(X, [math.nan, 1.0]), "fit: y must not be NaN"),
        (lambda c: c.fit(X, Y).score(X, [[0], [1]]), "score: y must have shape [2] as X has rows"),
        (lambda c: c.fit(X, Y).score(X, [0]), "score: y must have shape [2] as X has rows, got [1]"),
        (lambda c: c.fit(X, Y).score(X, Y, [1]), "score: sample_weight must be [2] numbers of at least 0"),
        (
            lambda c: c.fit(X, Y).score(X, Y, [1, -1]),
            "score: sample_weight must be [2] numbers of at least 0",
        ),
        (lambda c: c.fit(X, Y).score(X, Y, [0, 0]), "score: sample_weight must be [2] numbers of at least 0"),
        (
            lambda c: c.set_params(solver="sgd", seed=None).fit(X, Y),
            "fit_sgd: seed must be an int in [0, 2^63)",
        ),
        (lambda c: c.fit(X, Y).robust_score(X, [[0], [1]]), "certify: y must have shape [2] as X has rows"),
        (lambda c: c.fit(X, Y).robust_score(X, Y, -1), "robust_score: eps must be finite and at least"),
        (lambda c: c.fit(X, Y).robust_score(X, Y, math.nan), "robust_score: eps must be finite and at least"),
        (
            lambda c: c.fit(X, Y).robust_score(X, Y, torch.tensor(-0.5)),
            "robust_score: eps must be finite and",
        ),
        (lambda c: c.fit(X, Y).robust_score(X, Y, "0.1"), "robust_score: eps must be finite and at least 0"),
        (lambda c: c.fit(X, Y).robust_score(X, Y, True), "robust_score: eps must be finite and at least 0"),
        (
            lambda c: c.fit(X, Y).worst_case(X, Y, torch.tensor(math.nan)),
            "worst_case: eps must be finite and",
        ),
        (
            lambda c: c.fit(X, Y).worst_case(X, Y, np.ones(3)),
            "worst_case: eps must be finite and at least 0, a number or [2] of them, got [1.0, 1.0, 1.0]",
        ),
        (lambda c: c.fit(X, [1, 1]), "fit: y must have at least 2 classes, got 1"),
        (lambda c: c.predict(X), "decision_function: RobustLinearClassifier must be fitted first: call fit"),
        (lambda c: c.module(), "module: RobustLinearClassifier must be fitted first: call fit"),
        (lambda c: c.fit(X, Y).predict([[1.0]]), "decision_function: X must have 2 columns as in fit, got 1"),
        (lambda c: c.fit(X, Y).certify(X, [0]), "certify: y must have shape [2] as X has rows, got [1]"),
        (lambda c: c.fit(X, Y).certify(X, [0, 2]), "certify: y has the label np.int64(2), which fit has not"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(act, message):
    with pytest.raises(ValueError) as raised:
        act(RobustLinearClassifier())
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
