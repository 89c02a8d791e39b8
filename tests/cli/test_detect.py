import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastadv import PGD, OddsAreOdd
from fastadv.cli import app
from fastadv.models import load
from fastadv.models.images import load_image
from tests.cli.harness import MODELS

# Noise moves the answer of a linear model nowhere on average; this one has a bend.
BENT = (
    MODELS
    + """
class Bent(Linear):
    def forward(self, x):
        return super().forward(x).tanh() * 3 + super().forward(x - 0.1).abs()

class Cropped(Linear):
    def forward(self, x):
        return super().forward(x)[:, :2]
"""
)


def fastadv_detect(*arguments):
    return CliRunner().invoke(app, ["detect", *map(str, arguments)])


@pytest.fixture
def models(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(BENT)
    return path


@pytest.fixture
def detector(models, tmp_path):
    detector = OddsAreOdd(load(f"{models}:Bent"), [("normal", 0.05)], draws=8)
    x = torch.rand(300, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.35
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.fit([x[:150]], quiet=True)
    detector.calibrate([x[150:]], fpr=0.05, quiet=True)
    detector.save(tmp_path / "odds.safetensors")
    return detector


def test_what_is_shown_of_each_image_is_what_the_detector_says(models, detector, pictures, tmp_path):
    x = torch.stack([load_image(path, 8) for path in pictures])
    detector.cutoff = float(detector.score(x).topk(2).values.mean())  # one of the three is above
    detector.fit_correction([(x, detector(x).argmax(1))], PGD(eps=0.3, steps=20), quiet=True)
    detector.save(tmp_path / "odds.safetensors")
    said = detector.examine(x)
    assert said.flagged.sum() == 1
    for batch_size in (1, 2, 8):
        run = fastadv_detect(
            *pictures, "--detector", tmp_path / "odds.safetensors", "--model", f"{models}:Bent",
            "--batch-size", batch_size, "--device", "cpu",
        )  # fmt: skip
        assert run.exit_code == 0, run.output
        lines = [line for line in run.stdout.splitlines() if ".png" in line]
        names = detector.model.class_names
        for line, path, label, score, flagged, corrected in zip(
            lines, pictures, said.predicted, said.score, said.flagged, said.label, strict=True
        ):
            assert path.name in line
            assert f"{names[label]} " in line
            assert f"{score:.2f}" in line
            assert ("adversarial" in line) == bool(flagged)
            assert ("rather: " in line) == bool(corrected != label)
        assert run.stdout.splitlines()[-1] == (
            f"1 of 3 flagged as adversarial (score above {detector.cutoff:.2f})"
        )


def test_another_false_positive_rate_moves_the_cutoff(models, detector, pictures, tmp_path):
    arguments = [*pictures, "--detector", tmp_path / "odds.safetensors", "--model", f"{models}:Bent"]
    run = fastadv_detect(*arguments, "--fpr", 0.5)
    assert f"(score above {detector.threshold(0.5):.2f})" in run.stdout
    run = fastadv_detect(*arguments, "--fpr", 0.001)
    assert run.exit_code == 2
    assert run.stderr == (
        "fastadv: Invalid value: --fpr: OddsAreOdd: fpr 0.001 needs at least 999 held-out scores, got 150\n"
    )


def test_a_file_that_is_no_image_is_named_and_skipped(models, detector, pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    run = fastadv_detect(
        broken,
        *pictures,
        "--detector",
        tmp_path / "odds.safetensors",
        "--model",
        f"{models}:Bent",
        "--batch-size",
        1,
    )
    assert run.exit_code == 1
    assert f"skipped {broken}: not a JPEG or PNG image\n" in run.stderr
    assert "1 of 4 files were skipped" in run.stderr
    assert "of 3 flagged" in run.stdout


def test_a_class_of_which_too_little_is_known_is_said_to_be_unknown(models, detector, tmp_path):
    images = []
    for number in range(12):
        images.append(tmp_path / f"{number}.png")
        levels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(levels).save(images[-1])
    detector.std = torch.full_like(detector.std, torch.nan)
    detector.save(tmp_path / "odds.safetensors")
    run = fastadv_detect(*images, "--detector", tmp_path / "odds.safetensors", "--model", f"{models}:Bent")
    assert run.stdout.count("-inf") == 12
    assert run.stdout.count("unknown: too little") == 12
    assert "0 of 12 flagged" in run.stdout


@pytest.mark.parametrize(
    ("model", "file", "message"),
    [
        ("Cropped", "odds.safetensors", "made for logits [1, 3] of one sample, and the model returns [1, 2]"),
        ("grey", "odds.safetensors", "made for samples [3, 8, 8], and the model fails on one: RuntimeError"),
        ("nothing", "odds.safetensors", "--model: "),
        ("Bent", "none", "--detector: cannot read none: No such file or directory"),
        ("Bent", "tiny.py", "--detector: tiny.py: not a whole safetensors file"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_before_any_work(
    models, detector, pictures, tmp_path, monkeypatch, model, file, message
):
    monkeypatch.chdir(tmp_path)
    run = fastadv_detect(*pictures, "--detector", file, "--model", f"tiny.py:{model}")
    assert run.exit_code == 2
    assert run.stdout == ""
    assert message in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_detector_for_what_is_no_image_is_refused(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat.py").write_text("from torch import nn\ndef flat():\n    return nn.Linear(7, 3)\n")
    detector = OddsAreOdd(load("flat.py:flat"), draws=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.fit([torch.rand(9, 7)], quiet=True)
    detector.save("odds")
    run = fastadv_detect(*pictures, "--detector", "odds", "--model", "flat.py:flat")
    assert run.exit_code == 2
    assert "--detector: odds: made for samples [7], not for images" in run.stderr


def test_a_detector_for_another_box_than_that_of_images_is_refused_by_its_option(
    models, detector, pictures, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = [*pictures, "--detector", "odds.safetensors", "--model", "tiny.py:Bent"]
    for bounds, code in (((0.2, 0.7), 2), ((0.0, 255.0), 2), (None, 0)):
        detector.bounds = bounds
        detector.save("odds.safetensors")
        run = fastadv_detect(*arguments)
        assert run.exit_code == code, run.output
        if bounds:
            message = f"--detector: odds.safetensors: made for samples in {list(bounds)}, not for images in"
            assert message in run.stderr
            assert "--model" not in run.stderr
