"""ROC curves against their definition, and a tuning that reports what it did not choose by."""

import math

import pytest
import torch

from fastadv import PGD, OddsAreOdd
from fastadv.evaluation import Samples, roc, tune
from fastadv.evaluation.detection_plots import roc_figure, score_figure, tuning_figure
from tests.attacks.nets import BatchInvariant, samples


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_the_probability_that_an_attacked_sample_scores_higher_ties_counting_half(ties):
    generator = torch.Generator().manual_seed(0)
    clean, attacked = (
        torch.randn(n, generator=generator, dtype=torch.float64) + m for n, m in ((50, 0), (70, 1))
    )
    if ties:
        clean, attacked = clean.round(), attacked.round()
    pairs = attacked[:, None] - clean
    expected = (pairs > 0).double().mean() + (pairs == 0).double().mean() / 2
    assert roc(clean, attacked).area == pytest.approx(expected.item(), abs=1e-12)


def test_the_curve_has_the_rates_of_every_cutoff_infinite_scores_included():
    clean = torch.tensor([-math.inf, 0.0, 1.0, 2.0], dtype=torch.float64)
    attacked = torch.tensor([-math.inf, 1.0, 3.0, math.inf], dtype=torch.float64)
    curve = roc(clean, attacked)
    # cutoffs inf, 3, 2, 1, 0, -inf, and below all
    assert curve.fpr.tolist() == [0, 0, 0, 0.25, 0.5, 0.75, 1]
    assert curve.tpr.tolist() == [0, 0.25, 0.5, 0.5, 0.75, 0.75, 1]
    assert curve.tpr_at(0.01) == 0.5
    assert curve.tpr_at(0.5) == 0.75


def test_scores_that_make_no_curve_are_refused():
    for clean, name in ((torch.tensor([]), "clean"), (torch.tensor([math.nan]), "clean")):
        with pytest.raises(ValueError, match=f"roc: {name} must be at least one score and none NaN"):
            roc(clean, torch.ones(1))


@pytest.fixture(scope="module")
def setting():
    net, x = BatchInvariant(20, classes=4, seed=5), samples(900, 20)
    attack = PGD(eps=0.15, steps=10, early_stop=False)
    choose, judge = (Samples(part, attack(net, part)) for part in (x[300:600], x[600:]))
    return net, x[:300], choose, judge


@pytest.fixture(scope="module")
def tuning(setting):
    net, fit, choose, judge = setting
    return tune(
        net, fit, choose, judge, kinds=("normal", "sign"), scales=(0.02, 0.1), fpr=0.05, draws=8, seed=3
    )


def test_the_best_candidate_is_chosen_by_the_samples_to_choose_by(setting, tuning):
    net, fit, choose, _ = setting
    assert [c.noise for c in tuning.candidates] == [
        ("normal", 0.02), ("normal", 0.1), ("sign", 0.02), ("sign", 0.1)
    ]  # fmt: skip
    for candidate in tuning.candidates:
        detector = OddsAreOdd(net, [candidate.noise], draws=8, seed=3)
        detector.fit([fit], quiet=True)
        curve = roc(detector.score(choose.clean), detector.score(choose.attacked))
        assert curve.area == candidate.roc.area
        assert curve.tpr_at(0.05) == candidate.tpr
    assert tuning.chosen.tpr == max(c.tpr for c in tuning.candidates)


def test_what_is_reported_is_measured_on_the_samples_to_judge_by(setting, tuning):
    _, _, choose, judge = setting
    detector = tuning.detector
    assert detector.noise == (tuning.chosen.noise,)
    assert torch.equal(detector.held_out, detector.score(choose.clean))
    assert detector.cutoff == detector.threshold(0.05)
    for rate, batch in ((tuning.false_positives, judge.clean), (tuning.true_positives, judge.attacked)):
        assert (rate.count, rate.n) == (int(detector.detect(batch).sum()), 300)
    assert tuning.roc.area == roc(detector.score(judge.clean), detector.score(judge.attacked)).area
    assert tuning.false_positives.value < 0.05 + 3 * math.sqrt(0.05 * 0.95 * 2 / 300)


def test_a_tuning_tells_how_far_it_is_and_refuses_bad_settings_before_any_work(setting):
    net, fit, choose, judge = setting
    steps = []
    tune(
        net, fit, choose, judge, kinds=["uniform"], scales=[0.1, 0.2], fpr=0.1, draws=1,
        on_step=lambda *step: steps.append(step),
    )  # fmt: skip
    assert steps == [(1, 2), (2, 2)]
    with pytest.raises(ValueError, match="kinds and scales must not be empty"):
        tune(net, fit, choose, judge, scales=[])
    with pytest.raises(ValueError, match="OddsAreOdd: scale of noise must be positive and finite, got -1"):
        tune(
            net,
            fit,
            choose,
            judge,
            kinds=["sign"],
            scales=[0.1, -1],
            on_step=lambda *step: pytest.fail("worked"),
        )


def test_figures_are_drawn_of_scores_curves_and_tunings(tuning, tmp_path):
    scores = {"clean": torch.tensor([0.0, 1.0, -math.inf]), "PGD": torch.tensor([5.0, math.inf])}
    figure = score_figure(scores, 2.0)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["clean (n=3): 0.0% flagged", "PGD (n=2): 100.0% flagged", "cutoff 2.00"]
    curves = roc_figure({"PGD": tuning.roc})
    assert curves.axes[0].get_legend().get_texts()[0].get_text() == f"PGD, area {tuning.roc.area:.3f}"
    whole = tuning_figure(tuning)
    assert len(whole.axes) == 3
    assert f"{tuning.chosen.noise[0]} {tuning.chosen.noise[1]:g}, judged" in whole.axes[2].get_title()
    for number, drawn in enumerate((figure, curves, whole)):
        path = tmp_path / f"{number}.png"
        drawn.savefig(path)
        assert path.stat().st_size > 5000
