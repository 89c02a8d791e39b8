import errno
import re

import pytest

from fastadv.evaluation import experiment
from tests.cli.harness import fastadv_attack, results_in


def test_an_earlier_run_s_folder_is_used_again(tmp_path, models, pictures):
    for steps in (1, 2):
        run = fastadv_attack(*pictures, "--model", f"{models}:Linear", "--steps", steps, "--out", tmp_path)
        assert run.exit_code == 0, run.output
        assert results_in(tmp_path)["settings"]["steps"] == steps
    assert len(list(tmp_path.iterdir())) == 3 * 2 + 1


@pytest.mark.parametrize("way", ["own folder", "link to folder", "link to image", "earlier results"])
def test_a_folder_that_holds_an_image_to_be_attacked_is_refused(tmp_path, models, pictures, way):
    image, out = pictures[0], pictures[0].parent
    if way == "link to folder":
        out = tmp_path / "link"
        out.symlink_to(image.parent)
    elif way == "link to image":
        image = tmp_path / "link.png"
        image.symlink_to(pictures[0])
    elif way == "earlier results":
        out = tmp_path
        arguments = [*pictures, "--model", f"{models}:Linear", "--steps", 1, "--out", out]
        assert fastadv_attack(*arguments).exit_code == 0
        image = out / "picture0_untargeted.png"
    before = {path: path.read_bytes() for path in out.iterdir()}
    run = fastadv_attack(image, "--model", f"{models}:Linear", "--steps", 1, "--out", out)
    assert run.exit_code == 2
    assert re.fullmatch(r"fastadv: [^\n]*--out: .*\.png is in .*; give another folder\n", run.stderr)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("content", [None, "{}", "[1]", "no JSON", b"\xff", "folder"])
def test_a_folder_with_files_that_no_run_wrote_is_refused(tmp_path, models, pictures, content):
    path = tmp_path / ("picture0_figure.png" if content is None else "results.json")
    if content == "folder":
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else (content or "mine").encode())
    run = fastadv_attack(pictures[0], "--model", f"{models}:Linear", "--steps", 1, "--out", tmp_path)
    assert run.exit_code == 2
    assert re.fullmatch(r"fastadv: [^\n]*--out: .* holds files, and not the results.json of .*\n", run.stderr)
    assert list(tmp_path.iterdir()) == [path]
    assert content == "folder" or path.read_bytes() in (b"mine", content, str(content).encode())


def test_folders_below_it_do_not_make_a_folder_used(tmp_path, models, pictures):
    (tmp_path / "demo").mkdir()
    run = fastadv_attack(pictures[0], "--model", f"{models}:Linear", "--steps", 1, "--out", tmp_path)
    assert run.exit_code == 0, run.output


def test_a_folder_that_fills_up_is_one_line(tmp_path, models, pictures, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(experiment, "save_png", full)
    run = fastadv_attack(pictures[0], "--model", f"{models}:Linear", "--steps", 1, "--out", tmp_path)
    assert run.exit_code == 2
    assert re.search(r"^fastadv: [^\n]*--out: [^\n]*No space left on device\n\Z", run.stderr, re.MULTILINE)
