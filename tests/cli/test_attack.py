import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import fastadv
from fastadv.cli import app
from fastadv.models import load
from fastadv.models.images import load_image
from tests.cli.harness import fastadv_attack, results_in


def test_attack_leaves_files_that_fool_the_model_within_eps_and_says_so(tmp_path, models, pictures):
    out = tmp_path / "new" / "folder"
    spec = f"{models}:Linear"
    run = fastadv_attack(
        *pictures,
        "--model",
        spec,
        "--eps",
        "8/255",
        "--steps",
        10,
        "--target",
        "CAT",
        "--batch-size",
        2,
        "--out",
        out,
    )
    assert run.exit_code == 0, run.output
    written = results_in(out)
    assert written["skipped"] == []
    assert written["versions"] == fastadv.build_info()
    assert written["settings"]["eps"] == "8/255"
    assert [entry["file"] for entry in written["images"]] == [str(path) for path in pictures]
    model = load(spec)
    for path, entry in zip(pictures, written["images"], strict=True):
        clean = load_image(path, 8)
        label = model(clean[None]).argmax().item()
        assert entry["before"]["label"] == label
        for goal, outcome in entry["outcomes"].items():
            image = load_image(out / outcome["file"])
            logits = model(image[None])
            reached = logits.argmax().item()
            assert outcome["survived"] == (reached == 0 if goal == "targeted" else reached != label)
            assert outcome["survived"]
            assert outcome["file_prediction"]["label"] == reached
            assert outcome["file_prediction"]["confidence"] == pytest.approx(
                logits.softmax(1).max().item(), abs=1e-6
            )
            levels = ((image - clean) * 255).round().abs().max().item()
            assert outcome["file_linf"] == pytest.approx(levels / 255, abs=1e-12)
            assert levels <= 8
            assert outcome["linf"] <= 8 / 255 + 1e-7
        assert Image.open(out / entry["figure"]).format == "PNG"
    assert "3 of 3 misclassified within " in run.stdout
    assert "∞, ε = 8/255 (3 of 3 as saved 8-bit PNGs)" in run.stdout
    assert "3 of 3 taken for cat, " in run.stdout
    assert str(out) in run.stdout


def test_the_attack_reaches_what_the_best_linf_perturbation_of_a_linear_model_can(tmp_path, models, pictures):
    run = fastadv_attack(
        pictures[0],
        "--model",
        f"{models}:Linear",
        "--eps",
        "3/255",
        "--target",
        2,
        "--steps",
        10,
        "--out",
        tmp_path,
    )
    assert run.exit_code == 0, run.output
    model, x = load(f"{models}:Linear"), load_image(pictures[0])[None]
    # Raising one class against both others has no single optimum, so each pair bounds the confidence.
    clean, weight = model(x)[0], 4 * model.weight
    best = [(clean[2] - clean[k] + 3 / 255 * (weight[2] - weight[k]).abs().sum()).item() for k in (0, 1)]
    bound = 1 / (1 + np.exp(-best[0]) + np.exp(-best[1]))
    reached = results_in(tmp_path)["images"][0]["outcomes"]["targeted"]["prediction"]
    assert reached["label"] == 2
    assert 0.9 * bound <= reached["confidence"] <= bound + 1e-6


def test_an_attack_that_fails_is_reported_as_failed(tmp_path, models, pictures):
    run = fastadv_attack(pictures[0], "--model", f"{models}:Linear", "--eps", "0.001/255", "--out", tmp_path)
    assert run.exit_code == 0, run.output
    outcome = results_in(tmp_path)["images"][0]["outcomes"]["untargeted"]
    assert outcome["success"] is False
    assert outcome["survived"] is False
    assert outcome["file_linf"] == 0
    assert "0 of 1 misclassified" in run.stdout


def test_a_broken_file_is_named_and_skipped_and_the_exit_code_says_so(tmp_path, models, pictures):
    broken = pictures[0].with_name("broken.jpg")
    broken.write_text("no image")
    images = [pictures[0], broken, broken.with_name("missing.png"), pictures[1]]
    run = fastadv_attack(*images, "--model", f"{models}:Linear", "--steps", 3, "--out", tmp_path)
    assert run.exit_code == 1
    assert f"skipped {broken}: not a JPEG or PNG image" in run.stderr
    assert "missing.png: no such file" in run.stderr
    written = results_in(tmp_path)
    assert len(written["skipped"]) == 2
    assert [entry["file"] for entry in written["images"]] == [str(pictures[0]), str(pictures[1])]


def test_the_batch_size_changes_no_result_and_the_seed_does(tmp_path, models, pictures):
    def outcomes(name, *options):
        out = tmp_path / name
        run = fastadv_attack(*pictures, "--model", f"{models}:Linear", "--steps", 2, "--out", out, *options)
        assert run.exit_code == 0, run.output
        return [entry["outcomes"]["untargeted"] for entry in results_in(out)["images"]]

    together, alone = outcomes("together", "--batch-size", 3), outcomes("alone", "--batch-size", 1)
    assert [o["file_l2"] for o in alone] == [o["file_l2"] for o in together]
    assert [o["l2"] for o in outcomes("seeded", "--seed", 1)] != [o["l2"] for o in together]


def test_a_run_that_is_stopped_has_lost_nothing_that_was_done(tmp_path, models, pictures):
    run = fastadv_attack(
        *pictures,
        "--model",
        f"{models}:Interrupted",
        "--steps",
        10,
        "--batch-size",
        1,
        "--out",
        tmp_path / "out",
    )
    assert run.exit_code == 130
    (entry,) = results_in(tmp_path / "out")["images"]
    assert entry["file"] == str(pictures[0])
    assert (tmp_path / "out" / entry["figure"]).is_file()
    assert not list((tmp_path / "out").glob("*.part"))


def test_the_l2_ball_is_kept_by_the_saved_file_too(tmp_path, models, pictures):
    run = fastadv_attack(
        pictures[0], "--model", f"{models}:Linear", "--norm", "2", "--eps", "0.4", "--out", tmp_path
    )
    assert run.exit_code == 0, run.output
    outcome = results_in(tmp_path)["images"][0]["outcomes"]["untargeted"]
    assert outcome["survived"]
    assert outcome["l2"] <= 0.4 + 1e-6
    assert 0.3 <= outcome["file_l2"] <= 0.4 + 1e-6
    assert "2, ε = 0.4 (1 of 1 as" in run.stdout


@pytest.mark.parametrize("factory", ["grey", "nameless"])
def test_grey_models_and_classes_without_names_are_served(tmp_path, models, pictures, factory):
    run = fastadv_attack(
        pictures[0], "--model", f"{models}:{factory}", "--target", "1", "--steps", 3, "--out", tmp_path
    )
    assert run.exit_code == 0, run.output
    (entry,) = results_in(tmp_path)["images"]
    assert load_image(tmp_path / entry["outcomes"]["targeted"]["file"], channels=1).shape == (1, 8, 8)
    assert Image.open(tmp_path / entry["outcomes"]["targeted"]["file"]).mode == (
        "L" if factory == "grey" else "RGB"
    )
    assert ("class 1" if factory == "nameless" else "dog $x$") in run.stdout


def test_size_and_same_named_files(tmp_path, models, pictures):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / pictures[0].name
    Image.open(pictures[1]).save(twin)
    run = fastadv_attack(
        pictures[0], twin, "--model", f"{models}:Linear", "--size", 8, "--steps", 2, "--out", tmp_path
    )
    assert run.exit_code == 0, run.output
    assert [entry["figure"] for entry in results_in(tmp_path)["images"]] == [
        "picture0_figure.png",
        "picture0-2_figure.png",
    ]


def test_a_model_that_cannot_be_attacked_is_one_line_and_exit_code_2(tmp_path, models, pictures):
    run = fastadv_attack(pictures[0], "--model", f"{models}:NoGradient", "--out", tmp_path)
    assert run.exit_code == 2
    assert re.search(r"^fastadv: [^\n]*--model: [^\n]*no gradient[^\n]*\n\Z", run.stderr, re.MULTILINE), (
        run.stderr
    )


@pytest.mark.parametrize(
    ("model", "batch_size", "reason", "done"),
    [
        ("OnlyAlone", 2, r"the model fails on images of shape \[2, 3, 8, 8\]: AssertionError: one by one", 0),
        ("FailsLater", 1, "the untargeted attack fails: KeyError: 'later'", 1),
    ],
)
def test_a_model_that_fails_in_the_run_is_one_line_and_what_was_done_is_kept(
    tmp_path, models, pictures, model, batch_size, reason, done
):
    spec, size = f"{models}:{model}", str(batch_size)
    run = fastadv_attack(*pictures, "--model", spec, "--steps", 10, "--batch-size", size, "--out", tmp_path)
    assert run.exit_code == 2
    assert re.search(rf"^fastadv: [^\n]*--model: {reason}\n\Z", run.stderr, re.MULTILINE), run.stderr
    assert [entry["file"] for entry in results_in(tmp_path)["images"]] == list(map(str, pictures[:done]))


def test_class_names_are_never_markup_and_never_break_a_line(tmp_path, models, pictures):
    run = fastadv_attack(
        *pictures, "--model", f"{models}:markup", "--target", "[/b]dog", "--eps", "8/255", "--out", tmp_path
    )
    assert run.exit_code == 0, run.output
    assert "targeted: [/b]dog" in run.stdout
    assert "3 of 3 taken for [/b]dog, " in run.stdout
    names = {entry["before"]["name"] for entry in results_in(tmp_path)["images"]}
    assert names - {"[/b]dog"}
    assert all(name.replace("\n", "\\n") in run.stdout for name in names)


def test_awkward_files_are_attacked_or_skipped_and_never_end_the_run(tmp_path, models, pictures):
    not_text = Path(os.fsdecode(os.fsencode(pictures[0].parent) + b"/caf\xe9.png"))
    two_lines = pictures[0].with_name("two\nlines.png")
    long, alike = (pictures[0].with_name("x" * 247 + end + ".png") for end in "ab")
    skipped = pictures[0].with_name("picture1.gif")
    for path in (not_text, two_lines, long, alike, skipped):
        Image.open(pictures[0]).save(path)
    pipe = pictures[0].with_name("pipe\n.png")
    os.mkfifo(pipe)
    images = [skipped, pipe, not_text, two_lines, long, alike, pictures[1]]
    run = fastadv_attack(*images, "--model", f"{models}:Linear", "--steps", 2, "--out", tmp_path)
    assert run.exit_code == 1, run.output
    assert "pipe\\n.png: cannot be read (not a regular file)\n" in run.stderr
    assert "caf\\udce9.png" in run.stdout
    assert "two\\nlines.png" in run.stdout
    written = results_in(tmp_path)
    assert len(written["skipped"]) == 2
    assert [entry["file"] for entry in written["images"]] == [str(path) for path in images[2:]]
    figures = [entry["figure"].removesuffix("_figure.png") for entry in written["images"]]
    assert figures == ["caf_", "two_lines", "x" * 100, "x" * 100 + "-2", "picture1"]
    for entry in written["images"]:
        assert load_image(tmp_path / entry["outcomes"]["untargeted"]["file"]).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["x.png", "--eps", "two"],
            r"--eps: expected a positive number or fraction such as 2/255, got 'two'",
        ),
        (["x.png", "--eps", "2"], r"did you mean 2/255\?"),
        (["x.png", "--norm", "0.5"], r"--norm: expected inf, 2, 1, 0 or another number .*, got '0.5'"),
        (["x.png", "--norm", "two"], r"--norm: expected inf, 2, 1, 0 or another number .*, got 'two'"),
        (["x.png", "--norm", "l0", "--eps", "0.5"], r"--eps: for norm 0 it counts elements"),
        (["x.png", "--norm", "0", "--eps", "10.7"], r"expected a whole number of at least 1, got '10.7'"),
        (["x.png", "--steps", "0"], r"--steps"),
        (["x.png", "--steps", "many"], r"--steps"),
        (["x.png", "--device", "gpu"], r"--device: cannot use 'gpu'"),
        (["x.png", "--target", "dgo"], r"--target: no class 'dgo'"),
        (["x.png", "--target", "7"], r"--target: no class 7: labels run from 0 to 2"),
        (["x.png", "--model", "no_model"], r"--model: 'no_model': no such model"),
        (
            ["x.png", "--model", "{models}:Vector"],
            r"--model: the model returned \[1\], expected finite logits \[1, K\]",
        ),
        (["x.png", "--model", "{models}:NotFinite"], r"expected finite logits"),
        (["x.png", "--model", "{models}:too_few_names"], r"3 classes and 1 class_names"),
        (
            ["x.png", "--size", "9"],
            r"--model: the model fails on images of shape \[1, 3, 9, 9\]: RuntimeError",
        ),
        (["x.png", "--model", "{models}:WrongType"], r"images of shape \[1, 3, 8, 8\]: TypeError: first$"),
        (["x.png", "--model", "{models}:Assertion"], r"images of shape \[1, 3, 8, 8\]: AssertionError$"),
        (
            ["x.png", "--model", "{models}:OneClass"],
            r"returned \[1, 1\], expected finite logits \[1, K\] with",
        ),
        (["x.png", "--model", "{models}:four_channels"], r"expected an input_shape .*, got \(4, 8, 8\)"),
        (["x.png", "--model", "{models}:no_height"], r"expected an input_shape .*, got \(3, 0, 8\)"),
        (["x.png", "--model", "{models}:flat"], r"expected an input_shape \(1 or 3, H, W\), got 192"),
        (["x.png", "--model", "{models}:fraction"], r"expected an input_shape .*, got \(3, 8.0, 8\)"),
        (["x.png", "--model", "{models}:one_string"], r"class_names to be a sequence of strings, got a str"),
        (["x.png", "--model", "{models}:names_by_label"], r"a sequence of strings, got a dict"),
        (["x.png", "--model", "{models}:numbers"], r"class_names to be strings, got 1"),
        (["x.png", "--model", "{models}:Linear\n"], r"has no attribute 'Linear\\n'"),
        (["x.png", "--out", "{models}"], r"--out"),
        (["x.png", "--out", "{models}/below"], r"--out: cannot write to .*below: Not a directory"),
        # Not even root can make a file there.
        (["x.png", "--out", "/sys"], r"--out: cannot write to /sys: "),
        (["x.png", "--out", "{models.parent}"], r"--out: .* holds files, and not the results.json of"),
        (["x.png", "--colour"], r"--colour"),
        ([], r"IMAGE"),
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_2(models, arguments, message):
    arguments = [argument.format(models=models) for argument in arguments]
    model = [] if "--model" in arguments else ["--model", f"{models}:Linear"]
    run = fastadv_attack(*arguments, *model)
    assert run.exit_code == 2
    assert run.stdout == ""
    assert re.fullmatch(r"fastadv: [^\n]*\n", run.stderr), run.stderr
    assert re.search(message, run.stderr.rstrip("\n")), run.stderr


def test_info_prints_every_line_of_the_build_info():
    run = CliRunner().invoke(app, ["info"])
    assert run.exit_code == 0
    for key, value in fastadv.build_info().items():
        assert key in run.stdout
        assert value.split()[0] in run.stdout


def test_a_command_that_does_not_exist_is_one_line_and_exit_code_2():
    run = CliRunner().invoke(app, ["atack"])
    assert run.exit_code == 2
    assert re.fullmatch(r"fastadv: No such command 'atack'[^\n]*\n", run.stderr)
