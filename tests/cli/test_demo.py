import json
from importlib import metadata

import pytest
from typer.testing import CliRunner

from fastadv.cli import app
from fastadv.cli import attack as attack_module
from fastadv.models import EXAMPLE_PACKAGES, ModelError
from fastadv.models.images import sample_files


@pytest.fixture
def two_photographs(monkeypatch):
    """The demo on two of its twenty photographs."""
    installed = {distribution.name for distribution in metadata.distributions()}
    if missing := EXAMPLE_PACKAGES.keys() - installed:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")
    files = [sample_files("imagenet")[number] for number in (0, 3)]
    monkeypatch.setattr(attack_module, "sample_files", lambda data: files)
    return files


def test_a_real_imagenet_classifier_takes_photographs_for_a_black_swan_at_two_levels(
    tmp_path, two_photographs
):
    run = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--batch-size", "2"])
    assert run.exit_code == 0, run.output
    images = json.loads((tmp_path / "results.json").read_text())["images"]
    assert len(images) == 2
    assert [entry["truth"] for entry in images] == ["bull mastiff", "buckeye"]
    # The model is wrong about the buckeye from the start.
    assert [entry["before"]["name"] == entry["truth"] for entry in images] == [True, False]
    for entry in images:
        untargeted, targeted = entry["outcomes"]["untargeted"], entry["outcomes"]["targeted"]
        assert untargeted["prediction"]["name"] != entry["truth"]
        assert targeted["prediction"]["name"] == "black swan"
        assert targeted["prediction"]["confidence"] >= 0.99
        for outcome in (untargeted, targeted):
            assert outcome["survived"]
            assert outcome["file_linf"] <= 2 / 255
            assert (tmp_path / outcome["file"]).is_file()
        assert (tmp_path / entry["figure"]).is_file()
    assert "2 of 2 misclassified within " in run.stdout
    assert "∞, ε = 2/255 (2 of 2 as saved 8-bit PNGs)" in run.stdout
    assert "2 of 2 taken for black swan, 2 of them with confidence >= 0.99" in run.stdout


def test_without_the_example_packages_the_demo_says_what_to_install(monkeypatch):
    def missing(data):
        raise ModelError("the package foolbox is not installed: pip install --no-deps foolbox==3.3.4")

    monkeypatch.setattr(attack_module, "sample_files", missing)
    run = CliRunner().invoke(app, ["demo"])
    assert run.exit_code == 2
    assert run.stderr.count("\n") == 1
    assert "pip install --no-deps foolbox==3.3.4" in run.stderr
