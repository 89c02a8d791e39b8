"""examples/odds.py from end to end, and the sentences of its report."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import odds
import odds_report as report
from fastadv import OddsAreOdd
from fastadv.defenses import Gaps
from fastadv.evaluation.statistics import Rate
from fastadv.evaluation.study import Study
from fastadv.models import datasets, mnist_lenet5
from fastadv.models.datasets import Images
from odds_attacks import CLEAN, EOT_MATCHING, EVASION, MATCHING, QUICK, Row, Settings, table_rows
from odds_case import HELD_OUT, Case, Subject
from odds_splits import false_positives, summary
from odds_verdicts import MAIN, VARIANTS, Scored
from tests.examples.runs import ROOT, assert_goes_on, assert_refused, whole_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a quick run."""
    out = tmp_path_factory.mktemp("odds") / "run"
    said = whole_run("odds", out, ["mlxtend", "advertorch"])
    assert "Fashion-MNIST was left out: --fashion FOLDER takes it in" in said
    return out


@pytest.fixture
def case(finished):
    """The study of that run."""
    settings = json.loads((finished / "results.json").read_text())["settings"]
    return Case(QUICK, Study(finished, settings, {}), odds.load_subjects(QUICK, None))


def test_every_attack_is_scored_by_every_way_to_test_and_the_report_shows_it(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["about"]["torch"]
    names = list(table_rows(QUICK))
    expected = {f"digits: {name}" for name in names if name not in (EOT_MATCHING, EVASION)}
    expected |= {f"digits: {EOT_MATCHING}, {box}" for box in ("clipped", "unclipped")}
    expected |= {f"digits: {EVASION}, {variant}" for variant in VARIANTS}
    expected |= {
        f"digits: {work}, {box}"
        for work in ("tuning", "fitting", "dividing")
        for box in ("clipped", "unclipped")
    }
    assert results["parts"].keys() == expected | {f"digits: {HELD_OUT}"}
    text = (finished / "report.md").read_text()
    assert all(text.count(f"### Detection: {variant}") == 1 for variant in VARIANTS)
    # Once for each way to test, and once in the table of the correction.
    assert all(text.count(f"\n| {name} |") == 5 for name in names if name != CLEAN)
    for name in ("digits-scores.png", "digits-roc.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")


def test_the_scores_in_the_study_are_those_of_the_detector(finished, case):
    (subject,) = case.subjects
    for variant in VARIANTS:
        path = finished / "detectors" / f"digits, {'clipped' if variant.clipped else 'unclipped'}.safetensors"
        model = mnist_lenet5("standard")
        detector = OddsAreOdd.load(path, model)
        detector.two_sided = variant.two_sided
        found = case.scored(subject, HELD_OUT, variant)
        verdict = detector.examine(subject.held_out.x)
        assert torch.allclose(found.score, verdict.score, rtol=1e-3, atol=1e-3)
        assert torch.equal(found.predicted, verdict.predicted) and found.success.all()
        detector.calibrate([subject.held_out.x], fpr=0.2, quiet=True)
        assert case.cutoff(subject, variant, 0.2) == pytest.approx(detector.cutoff, rel=1e-3, abs=1e-3)
        flagged = detector.detect(subject.test.x)
        rate = case.scored(subject, CLEAN, variant).flagged(detector.cutoff)
        assert rate.count == pytest.approx(int(flagged.sum()), abs=1) and rate.n == 40


def test_a_run_that_goes_on_computes_what_is_missing_and_gives_the_same_numbers(finished, tmp_path):
    lost = ["digits: fitting, clipped", f"digits: {MATCHING}", f"digits: {EVASION}, {MAIN}"]
    kept = [finished / "detectors/digits, unclipped.safetensors"]
    assert_goes_on("odds", finished, tmp_path, lost, kept)


def test_over_divisions_of_like_samples_the_mean_rate_is_the_target():
    n, k = 600, 4
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, k, generator=generator)
    mean = torch.randn(1, n, k, generator=generator, dtype=torch.float64)
    gaps = Gaps(logits, logits.argmax(1), mean, torch.zeros_like(mean))
    found = false_positives(gaps, [300, 199, 101], [0.1, 0.2], splits=100, seed=0)
    for counts in found.values():
        for fpr, flagged in ((0.1, counts["0.1"]), (0.2, counts["0.2"])):
            assert len(flagged) == 100 and len(set(flagged)) > 5
            assert sum(flagged) / (100 * 101) == pytest.approx(fpr, abs=0.02)
    assert found["one"] != found["two"]
    assert found == false_positives(gaps, [300, 199, 101], [0.1, 0.2], splits=100, seed=0)


def test_a_summary_of_divisions_counts_those_within_three_standard_deviations():
    # 0.05 of 1,900 images: the binomial standard deviation is 0.005, with as many for the cutoff 0.00707.
    assert summary([95, 95, 130, 140], 1900, 0.05, 1900) == ["6.05", "1.23", "0.50", "0.71", "50", "75"]


def test_bad_options_are_refused_in_one_line_and_nothing_is_lost(finished):
    message = "nowhere holds no train-images-idx3-ubyte.gz: apt install"
    assert_refused("odds", finished, ("--fashion", "nowhere"), message)


@pytest.mark.parametrize(
    ("name", "page"), [("digits", "odds.md"), ("fashion-mnist", "odds-fashion-mnist.md")]
)
def test_the_documented_figures_are_those_of_the_committed_run(finished, tmp_path, name, page):
    fashion = datasets.DEBIAN_FASHION_MNIST if name == "fashion-mnist" else None
    if fashion is not None and not Path(fashion).exists():
        pytest.skip(f"the labels are not here: {fashion}")
    kept = ROOT / f"examples/results/odds-{name}.json"
    results = json.loads(kept.read_text())
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in results["settings"].items()
    }
    (tmp_path / "results.json").write_bytes(kept.read_bytes())
    subjects = [
        subject for subject in odds.load_subjects(Settings(**settings), fashion) if subject.name == name
    ]
    whole = report.report(Case(Settings(**settings), Study(tmp_path, settings, {}), subjects))
    documented = (ROOT / "docs" / page).read_text()
    lines = [line for line in whole.splitlines() if line.startswith(("|", "-"))]
    assert len(lines) > 60
    assert [line for line in lines if line not in documented] == []
    assert all(results["about"][name] in documented for name in ("date", "torch"))


def numbered(first, count):
    """Images that can be told apart, `count` / 10 of each class."""
    x = torch.arange(first, first + count, dtype=torch.float32).reshape(-1, 1, 1, 1)
    return Images(x, x.flatten().long() % 10)


def test_no_image_has_two_uses_and_every_class_has_its_share(monkeypatch):
    monkeypatch.setattr(odds.datasets, "digits", lambda: numbered(0, 5000))
    starts = {"train": 100_000, "test": 200_000}
    monkeypatch.setattr(odds.datasets, "fashion_mnist", lambda part, folder: numbered(starts[part], 10_000))
    for subject in odds.load_subjects(QUICK, Path("somewhere")):
        parts = [subject.fit, subject.held_out, subject.test]
        assert [len(part.y) for part in parts] == [200, 100, 40]
        if subject.trained_on is not None:
            parts.append(subject.trained_on)
            assert (subject.trained_on.x < 200_000).all() and (subject.test.x >= 200_000).all()
        for part in parts:
            assert torch.equal(part.y, part.x.flatten().long() % 10)
            assert part.y.bincount().tolist() == [len(part.y) // 10] * 10
            assert not torch.equal(part.y, part.y.sort().values)
        assert len(torch.cat([part.x for part in parts]).unique()) == sum(len(part.y) for part in parts)
    with pytest.raises(ValueError, match=r"stratified: no parts of \[5000, 10\] images in 10 classes"):
        odds.stratified(numbered(0, 5000), (5000, 10), seed=0)


@pytest.fixture
def random_case(tmp_path):
    """A study of a net that is yet to be trained, on random images."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        Images(torch.rand(n, 1, 28, 28, generator=generator), torch.arange(n) % 10) for n in (40, 20, 6, 30)
    ]
    return Case(QUICK, Study(tmp_path, {}, {}), [Subject("random", None, *parts)])


def test_a_net_without_weights_is_trained_and_kept(random_case):
    (part,) = random_case.stages()["training"]
    random_case.study.run([part], workers=1, on_progress=lambda cost: None)
    (subject,) = random_case.subjects
    weights = nn.utils.parameters_to_vector(random_case.model(subject).parameters())
    assert torch.equal(weights, nn.utils.parameters_to_vector(random_case.model(subject).parameters()))
    assert not torch.equal(weights, nn.utils.parameters_to_vector(random_case.untrained().parameters()))
    assert not random_case.study.missing([part])


def test_only_samples_count_that_were_right_and_are_wrong_inside_the_ball(random_case, monkeypatch):
    class Threshold(nn.Module):
        def forward(self, x):
            bright = x.flatten(1).mean(1) > 0.5
            return torch.stack([~bright, bright], 1).float()

    images = Images(torch.full((6, 1, 2, 2), 0.45), torch.tensor([0, 0, 0, 0, 1, 1]))
    shifts = torch.tensor([0.0, 0.09, 0.11, 0.04, 0.0, 0.09]).reshape(-1, 1, 1, 1)
    #     unmoved, broken, outside, still right, wrong before, wrong before and right after
    row = Row(lambda *_: lambda model, x, y, on_step: x + shifts, "nothing", 0.1, 6, 1)
    random_case.rows = {**random_case.rows, "shift": row}
    model = Threshold()
    monkeypatch.setattr(random_case, "model", lambda subject: model)
    detector = OddsAreOdd(model, draws=2)
    with pytest.warns(UserWarning, match="fewer than 3 samples"):
        detector.fit([torch.full((5, 1, 2, 2), 0.5)], quiet=True)
    monkeypatch.setattr(random_case, "detector", lambda subject, model, clipped: detector)
    subject = random_case.subjects[0]._replace(test=images)
    result = random_case.scoring(subject, "shift", None).compute(lambda step, steps: None)
    assert result["success"] == "010000"
    assert result["predicted"] == "011001"


def scored(scores, success=None, predicted=None, corrected=None, kept=None):
    """What a detector says of samples of class 0: all of them successes, predicted as 1, corrected to 0."""
    n = len(scores)
    return Scored(
        torch.ones(n, dtype=torch.bool) if success is None else torch.tensor(success),
        torch.ones(n, dtype=torch.int64) if predicted is None else torch.tensor(predicted),
        torch.zeros(n, dtype=torch.int64),
        torch.tensor(scores, dtype=torch.float64),
        torch.zeros(n, dtype=torch.int64) if corrected is None else torch.tensor(corrected),
        torch.ones(n, dtype=torch.float64) if kept is None else torch.tensor(kept, dtype=torch.float64),
    )


CLEAN_SCORES = scored([*[0.0] * 95, *[2.0] * 5])


def test_rates_are_of_successes_or_of_all_samples_as_their_names_say():
    found = scored([2.0, 2.0, 0.0, 0.0], [True, False, True, False], [1, 0, 1, 1], [0, 2, 0, 0])
    assert found.flagged(1.0) == Rate(1, 2)
    assert found.unseen(1.0) == Rate(1, 4)
    assert found.accuracy(None) == Rate(1, 4)
    assert found.accuracy(1.0) == Rate(1, 4)  # one gained, one lost
    assert found.accuracy(-1.0) == Rate(3, 4)


def test_a_promise_is_kept_within_three_standard_deviations_only():
    kept = report.promise({"a": (0.01, Rate(19, 1000)), "b": (0.05, Rate(30, 1000))}, 1000)
    assert kept.startswith("2 of 2") and "keep their promise" in kept
    broken = report.promise({"a": (0.01, Rate(20, 1000)), "b": (0.05, Rate(28, 1000))}, 1000)
    assert broken.startswith("0 of 2") and "all but a; b." in broken and broken.endswith("2 of 2 do.")
    assert report.promise({"a": (0.01, Rate(24, 1000))}, 1000).endswith("0 of 1 do.")


def test_that_cutoffs_are_estimates_widens_the_spread_by_the_root_of_two_where_n_is_the_same():
    rate = Rate(70, 1000)
    assert report.off(rate, 0.05) == pytest.approx(0.02 / (0.05 * 0.95 / 1000) ** 0.5)
    assert report.off(rate, 0.05, 1000) == pytest.approx(report.off(rate, 0.05) / 2**0.5)


@pytest.mark.parametrize(
    ("attacked", "verdict"),
    [
        (scored([3.0] * 50), "flagged far more often than clean images, as the survey says"),
        (scored([*[-1.0] * 25, *[3.0] * 25]), "not far more: less than the survey suggests"),
        (scored([*[0.0] * 47, *[3.0] * 3]), "the survey is not borne out"),
        (scored([3.0] * 5, [False] * 5), "it never succeeds, so there is nothing to flag"),
    ],
)
def test_the_survey_s_claim_is_borne_out_or_not_by_the_scores(attacked, verdict):
    assert verdict in report.against_clean("PGD", attacked, CLEAN_SCORES, 1.0)


def test_an_attack_is_flagged_less_than_another_only_where_the_sign_test_says_so():
    seen, unseen = scored([3.0] * 10), scored([0.0] * 10)
    assert report.cuts("a", seen, "b", unseen, 1.0).endswith("b is flagged less often than a.")
    assert report.cuts("a", unseen, "b", seen, 1.0).endswith("b is flagged more often than a.")
    few = scored([0.0] * 10, [True] * 3 + [False] * 7)
    assert report.cuts("a", seen, "b", few, 1.0).endswith("no difference is shown.")
    assert "of 4 images on which both succeed" in report.cuts("a", seen, "b", scored([0.0] * 4), 1.0)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (scored([0.0] * 20), "that is the end of the test"),
        (scored([*[0.0] * 15, *[3.0] * 5]), "though the test still tells something"),
        (scored([*[0.0] * 5, *[3.0] * 15]), "against this attack the test is of use"),
        (scored([0.0] * 20, [True] * 5 + [False] * 15), "against this attack the test is of use"),
        (scored([0.0] * 5, [False] * 5), "the test is not put to the proof"),
    ],
)
def test_a_test_is_at_its_end_where_most_samples_succeed_and_are_flagged_as_clean_ones_are(found, verdict):
    assert verdict in report.ended("a", found, 1.0, 0.05)


def test_what_survives_noise_better_is_told_by_the_sign_test_on_common_successes():
    weak, strong = scored([0.0] * 10, kept=[0.25] * 10), scored([0.0] * 8, kept=[0.5] * 8)
    said = report.survives("a", weak, "b", strong)
    assert "of 8 images on which both succeed 25.0% and 50.0% of noisy copies" in said
    assert said.endswith("b survives noise better than a.")
    assert report.survives("a", strong, "b", weak).endswith("b survives noise worse than a.")
    assert report.survives("a", weak, "b", weak).endswith("no difference is shown.")
    never = scored([0.0] * 10, [False] * 10)
    assert report.survives("a", weak, "b", never).endswith("no image on which both succeed.")


def test_a_correction_is_worth_it_where_it_gains_more_than_it_costs():
    clean = scored([*[0.0] * 95, *[2.0] * 5], predicted=[0] * 100, corrected=[1] * 100)
    gains = report.corrects("a", scored([2.0] * 10), clean, 1.0)
    assert "from 0.0% to 100.0%, and on clean images from 100.0% to 95.0%" in gains
    assert gains.endswith("it gains more than it costs.")
    assert report.corrects("a", scored([0.0] * 10), clean, 1.0).endswith("it costs more than it gains.")
