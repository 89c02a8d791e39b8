import csv
import json
import re
import sys

import pytest
import torch

from fastadv import KWTA, PGD
from fastadv.cli import training_data
from fastadv.defenses import convert
from fastadv.models import ModelError, load
from fastadv.models.datasets import Images
from fastadv.models.folder import image_folder
from tests.cli.training import SMALL, folder, nets, train

__all__ = ["folder", "nets"]
pytest.importorskip("torchvision")


def weights(out):
    return torch.load(out / "model.pt", weights_only=True)


def epochs(out):
    return list(csv.DictReader((out / "epochs.csv").open()))


def test_the_weights_it_writes_have_the_robust_accuracy_that_it_reports(tmp_path, nets, folder):
    spec, state = f"{nets}:Net", torch.get_rng_state()
    run = train("--data", folder, "--model", spec, *SMALL, "--epochs", 6, "--out", tmp_path)
    assert run.exit_code == 0, run.output
    assert torch.equal(torch.get_rng_state(), state)
    best = max(float(row["robust"]) for row in epochs(tmp_path))
    assert best > 0.5
    assert f"{100 * best:.2f}% of the validation hold out" in run.stdout
    assert len(re.findall(r"^epoch \d/6: loss [\d.]+, right in training", run.stdout, re.MULTILINE)) == 6
    model = load(spec)
    model.load_state_dict(weights(tmp_path))
    images = image_folder(folder, (3, 8, 8)).images
    held_out = torch.randperm(21, generator=torch.Generator().manual_seed(0))[:5].tolist()
    x = torch.stack([images[number][0] for number in held_out])
    y = torch.tensor([images[number][1] for number in held_out])
    x_adv = PGD(eps=4 / 255, steps=2)(model, x, y, ids=torch.arange(5))
    assert (model(x_adv).argmax(1) == y).double().mean() == pytest.approx(best)
    settings = json.loads((tmp_path / "settings.json").read_text())["settings"]
    assert (settings["eps"], settings["attack"]) == ("4/255", "pgd")
    assert not list(tmp_path.glob("*.part"))


def test_an_interrupted_run_goes_on_by_the_same_command_to_the_same_weights(
    tmp_path, nets, folder, monkeypatch
):
    arguments = ("--data", folder, "--model", f"{nets}:Interrupted", *SMALL, "--epochs", 3)
    arguments = (*arguments, "--checkpoint-every", 3)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(*arguments, "--out", whole).exit_code == 0
    monkeypatch.setenv("INTERRUPT", "9")
    run = train(*arguments, "--out", stopped)
    assert run.exit_code == 130
    assert not (stopped / "model.pt").exists()
    monkeypatch.delenv("INTERRUPT")
    run = train(*arguments, "--out", stopped)
    assert run.exit_code == 0, run.output
    assert "Going on after 8 updates" in run.stdout
    for name, value in weights(whole).items():
        assert torch.equal(weights(stopped)[name], value)
    assert (stopped / "updates.jsonl").read_text() == (whole / "updates.jsonl").read_text()


def test_other_settings_or_a_broken_checkpoint_are_refused_and_no_resume_begins_again(tmp_path, nets, folder):
    arguments = ["--data", folder, "--model", f"{nets}:Net", *SMALL, "--epochs", 1, "--out", tmp_path]
    assert train(*arguments).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    run = train(*arguments, "--attack", "fgsm")
    assert run.exit_code == 2
    expected = (
        r"fastadv: [^\n]*--out: [^\n]*checkpoint.pt: of another training: attack is 'fgsm' here and 'pgd' "
    )
    assert re.fullmatch(expected + r"there; give another folder or --no-resume\n", run.stderr), run.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "checkpoint.pt").write_bytes(before[tmp_path / "checkpoint.pt"][:-5])
    run = train(*arguments)
    assert run.exit_code == 2
    assert re.fullmatch(r"fastadv: [^\n]*damaged or cut short[^\n]*\n", run.stderr), run.stderr
    run = train(*arguments, "--attack", "fgsm", "--no-resume")
    assert run.exit_code == 0, run.output
    assert "Going on" not in run.stdout
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["attack"] == "fgsm"
    assert len(epochs(tmp_path)) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--attack", "none"),
        (
            "--attack",
            "fgsm",
            "--norm",
            2,
            "--step-size",
            "0.01",
            "--optimizer",
            "sgd",
            "--schedule",
            "cosine",
        ),
        ("--mix", 0.5, "--schedule", "step", "--optimizer", "adamw", "--weight-decay", 0.01),
        ("--autocast", "bf16", "--schedule", "constant", "--lr", 0.01),
        ("--activation", "kwta", "--gamma", 0.25),
        ("--norm", 0, "--eps", 5),
        ("--norm", 0, "--eps", 5, "--attack", "fgsm", "--step-size", 12),
    ],
)
def test_every_choice_trains(tmp_path, nets, folder, arguments):
    start = load(f"{nets}:Net").state_dict()
    run = train(
        "--data", folder, "--model", f"{nets}:Net", *SMALL, "--epochs", 1, *arguments, "--out", tmp_path
    )
    assert run.exit_code == 0, run.output
    found = weights(tmp_path)
    assert all(value.isfinite().all() for value in found.values())
    assert {name for name in found if "extra_state" not in name} == set(start)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "updates.jsonl").read_text().splitlines()]
    assert len(losses) == 4


def test_the_attack_that_is_asked_for_makes_the_loss_larger(tmp_path, nets, folder):
    """In the first update, when the weights are the same."""
    losses = []
    for name, arguments in (("none", ()), ("fgsm", ()), ("pgd", ("--steps", 10))):
        fixed = ("--data", folder, "--model", f"{nets}:Net", *SMALL, "--epochs", 1, "--eps", "0.1")
        out = tmp_path / name
        assert train(*fixed, "--attack", name, *arguments, "--out", out).exit_code == 0
        losses.append(json.loads((out / "updates.jsonl").read_text().splitlines()[0])["loss"])
    none, fgsm, pgd = losses
    assert none + 0.01 < fgsm <= pgd + 1e-6


def test_patience_stops_early_and_says_so(tmp_path, nets, folder):
    fixed = ("--data", folder, "--model", f"{nets}:Net", *SMALL, "--lr", 1e-12)
    run = train(*fixed, "--epochs", 9, "--patience", 2, "--out", tmp_path)
    assert run.exit_code == 0, run.output
    assert "Stopped after epoch 3 of 9: no better robust accuracy since 1" in run.stdout
    assert len(epochs(tmp_path)) == 3


@pytest.fixture
def few_digits(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = Images(torch.rand(40, 1, 28, 28, generator=generator), torch.arange(40) % 10)
    monkeypatch.setattr(training_data, "digits", lambda: images)


def test_digits_by_the_default_net_from_random_weights_of_the_seed_with_kwta_too(tmp_path, few_digits):
    try:
        pretrained = load("mnist_lenet5")
    except ModelError as error:
        pytest.skip(str(error))
    fixed = ("--validation", 10, "--epochs", 1, "--steps", 1, "--validation-steps", 1, "--lr", 1e-12)
    states = []
    for name, arguments in (
        ("scratch", ()),
        ("again", ("--attack", "none")),
        ("seed", ("--seed", 1)),
        ("pretrained", ("--pretrained",)),
        ("kwta", ("--activation", "kwta", "--gamma", 0.2)),
    ):
        run = train(*fixed, *arguments, "--out", tmp_path / name)
        assert run.exit_code == 0, run.output
        states.append(weights(tmp_path / name))
    layer = "network.conv1.weight"
    scratch, again, seed, kept, kwta = (state[layer] for state in states)
    for other, like in ((again, True), (seed, False), (kept, False), (kwta, True)):
        assert torch.allclose(scratch, other, atol=1e-8) == like
    assert torch.allclose(kept, pretrained.state_dict()[layer], atol=1e-8)
    convert(pretrained, 0.5)
    pretrained.load_state_dict(states[-1])
    assert {module.gamma for module in pretrained.modules() if isinstance(module, KWTA)} == {0.2}
    settings = json.loads((tmp_path / "scratch" / "settings.json").read_text())["settings"]
    assert (settings["model"], settings["eps"], settings["lr"]) == (None, None, 1e-12)


def test_a_net_that_fails_in_training_is_one_line(tmp_path, nets, folder):
    run = train("--data", folder, "--model", f"{nets}:Failing", *SMALL, "--out", tmp_path)
    assert run.exit_code == 2
    assert re.search(r"^fastadv: [^\n]*training fails: KeyError: 'later'\n\Z", run.stderr, re.MULTILINE)


def test_an_image_that_cannot_be_read_is_named(tmp_path, nets, folder):
    (folder / "red" / "3.png").write_text("no image")
    for workers in (0, 1):
        arguments = ("--data", folder, "--model", f"{nets}:Net", *SMALL, "--workers", workers)
        run = train(*arguments, "--out", tmp_path)
        assert run.exit_code == 2
        assert re.search(r"--data: [^\n]*red/3.png: not a JPEG or PNG image\n\Z", run.stderr), run.stderr


def test_a_folder_that_a_kill_left_with_an_unfinished_file_only_is_new(tmp_path, nets, folder):
    (tmp_path / "settings.json.part").write_text("{")
    run = train("--data", folder, "--model", f"{nets}:Net", *SMALL, "--epochs", 1, "--out", tmp_path)
    assert run.exit_code == 0, run.stderr


def test_a_folder_with_files_that_no_training_wrote_is_refused(tmp_path, nets, folder):
    (tmp_path / "mine").write_text("mine")
    run = train("--data", folder, "--model", f"{nets}:Net", *SMALL, "--out", tmp_path)
    assert run.exit_code == 2
    assert "holds files, and not the settings.json of an earlier training; give a new folder" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eps", "two"], "--eps: expected a positive number or fraction such as 2/255, got 'two'"),
        (
            ["--eps", "8"],
            "--eps: images lie in [0, 1], so a linf eps of 8 allows anything; did you mean 8/255?",
        ),
        (
            ["--step-size", "-1"],
            "--step-size: expected a positive number or fraction such as 2/255, got '-1'",
        ),
        (["--step-size", "8"], "a step of 8 leaves it from anywhere; did you mean 8/255?"),
        (
            ["--norm", "0", "--eps", "0.5"],
            "--eps: for norm 0 it counts elements: expected a whole number of at least 1, got '0.5'",
        ),
        (["--mix", "0"], "mix must be a number in (0, 1], got 0.0"),
        (["--lr", "nan"], "--lr: expected a positive number, got nan"),
        (["--epochs", "0"], "--epochs"),
        (["--attack", "cw"], "--attack"),
        (["--schedule", "plateau"], "--schedule"),
        (["--device", "gpu"], "--device: cannot use 'gpu'"),
        (["--validation", "21"], "--validation: must leave something to train on, there are 21 samples"),
        (["--model", "nothing"], "--model: 'nothing': no such model"),
        (["--model", "{nets}:four"], "has 3 classes, this model 4"),
        (["--model", "{nets}:empty"], "--model: it has no parameters to train"),
        (
            ["--model", "{nets}:Functional", "--activation", "kwta"],
            "--activation: convert: the model would be half",
        ),
        (["--activation", "kwta", "--gamma", "2"], "--activation: KWTA: gamma must be in (0, 1], got 2"),
        (["--data", "digits"], "digits has images [1, 28, 28], this model's are [3, 8, 8]"),
        (["--data", "nowhere"], "--data: nowhere: no images in folders by class"),
        (["--tensorboard"], "--tensorboard: Log: tensorboard is not installed: pip install tensorboard"),
    ],
)
def test_bad_settings_are_refused_in_one_line_before_any_work(
    tmp_path, nets, folder, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    given = [argument.format(nets=nets) for argument in arguments]
    run = train("--data", folder, "--model", f"{nets}:Net", *SMALL[:4], *given)
    assert run.exit_code == 2
    assert run.stderr.count("\n") == 1
    assert message in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_calls_the_classes_otherwise_is_named_and_in_another_order_refused(
    tmp_path, nets, folder
):
    def trained(model):
        fixed = (*SMALL, "--epochs", 1, "--attack", "none")
        return train("--data", folder, "--model", f"{nets}:{model}", *fixed, "--out", tmp_path / model)

    same, names, order = map(trained, ("same_order", "other_names", "other_order"))
    assert (same.exit_code, names.exit_code, order.exit_code) == (0, 0, 2)
    remark = f"classes go by number: class 1 is green in {folder} and verde in the model\n"
    assert "classes go by number" not in same.stderr
    assert names.stderr.count(remark) == 1
    assert order.stderr.count("\n") == 1
    assert (
        f"--model: class 1 is green in {folder} and red in the model, whose green is class 2: "
        "its class_names must be in the folders' alphabetical order"
    ) in order.stderr
    assert not (tmp_path / "other_order").exists()


def test_images_of_one_s_own_need_a_model(folder):
    run = train("--data", folder)
    assert run.exit_code == 2
    assert "--model: expected a model for images of your own" in run.stderr
