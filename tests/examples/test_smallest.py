"""examples/smallest.py on one small net, and the sentences of its report."""

import json
import math

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import smallest
import smallest_report as report
from fastadv.models import mnist_lenet5
from smallest import QUICK, Subject, measured
from smallest_attacks import Attack, attacks, missing_peers


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a quick run on one LeNet5."""
    if missing := missing_peers():
        pytest.skip(f"not installed: {', '.join(missing)}")
    load, out = smallest.load_subjects, tmp_path_factory.mktemp("smallest") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(smallest, "load_subjects", lambda settings: load(settings)[:1])
        done = CliRunner().invoke(smallest.app, ["--quick", "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_every_attack_of_every_library_is_measured_and_the_report_shows_it(finished):
    parts = json.loads((finished / "results.json").read_text())["parts"]
    text = (finished / "report.md").read_text()
    for norm, p in smallest.NORMS.items():
        for name in attacks(p, QUICK.digit_budget):
            result = parts[f"LeNet5: {norm}: {name}"]["result"]
            assert len(result["distance"]) == 10 and result["evaluations"] >= 1 and result["seconds"] > 0
            assert f"\n| {name} |" in text
    assert text.count("| adv-lib: FMN |") == 3 and "## LeNet5, 10 images" in text


@pytest.mark.parametrize(("norm", "expected"), [(2.0, 0.5 * 3**0.5), (math.inf, 0.5), (0.0, 3)])
def test_the_distance_is_measured_here_and_a_failure_has_none(norm, expected):
    class First(nn.Module):
        """Says 1 where the first element is above a half."""

        def forward(self, x):
            return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], 1)

    x = torch.full((2, 4), 0.25)
    moved = torch.tensor([[0.5, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])

    def run(model, images, labels, on_step):
        model(images), model(images[:1])
        return images + moved

    subject = Subject("first", First(), x, torch.zeros(2, dtype=torch.int64), QUICK.digit_budget)
    result = measured(subject, Attack("by hand", 1, run), norm, lambda step, steps: None)
    assert result["distance"] == [pytest.approx(expected, abs=1e-6), None]
    assert result["evaluations"] == 1.5

    def broken(*_):
        raise IndexError("of its own")

    failed = measured(subject, Attack("theirs", 1, broken), norm, lambda step, steps: None)
    assert failed == {"failed": "IndexError: of its own"}
    with pytest.raises(IndexError):
        measured(subject, Attack("ours", 1, broken, foreign=False), norm, lambda step, steps: None)
    with pytest.raises(RuntimeError, match="by hand left the box"):
        measured(subject, Attack("by hand", 1, lambda *_: x - 1), norm, lambda step, steps: None)


def test_images_are_classified_correctly_and_of_every_class():
    subject = smallest.load_subjects(QUICK)[0]
    assert sorted(subject.y.tolist()) == list(range(10))
    assert (mnist_lenet5("standard")(subject.x).argmax(1) == subject.y).all()


def result(distance, seconds=1.0):
    return {"distance": distance, "evaluations": 5.0, "seconds": seconds}


def test_the_median_counts_failures_as_infinitely_far():
    assert report.middle(result([1.0, None, 3.0])) == 3.0
    assert report.middle(result([1.0, None])) == math.inf
    assert "none: half fail" in report.table({"fastadv: a": result([None])})


def test_the_verdict_compares_the_best_of_each_side():
    found = {
        "fastadv: slow": result([0.9], 4.0),
        "fastadv: far": result([2.0], 1.0),
        "adv-lib: near": result([1.0], 2.0),
        "Foolbox: far": result([1.5], 1.0),
    }
    assert report.verdict(found) == (
        "fastadv: slow has a median of 10.0% less than the best of the others, adv-lib: near, "
        "in 2.00 of its time."
    )
    found["fastadv: slow"] = result([1.0], 1.0)
    found["Foolbox: broken"] = {"failed": "IndexError: of its own"}
    assert "| Foolbox: broken | IndexError: of its own |" in report.table(found)
    assert "fastadv: slow has the same median as the best of the others" in report.verdict(found)
    found["fastadv: slow"] = result([1.25], 1.0)
    assert "a median of 25.0% more than" in report.verdict(found)


def test_peers_that_are_not_installed_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(smallest, "missing_peers", lambda: ["adv-lib"])
    done = CliRunner().invoke(smallest.app, ["--quick", "--out", str(tmp_path / "run")])
    assert done.exit_code != 0 and "the libraries compared with are not installed: adv-lib" in done.output
