"""Quick runs of the scripts in examples/, and what holds for each of them."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(name, out, *arguments):
    """examples/name.py on a few images, as from a shell."""
    command = [sys.executable, str(ROOT / f"examples/{name}.py"), "--quick", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def whole_run(name, out, packages):
    """What a run into a new folder printed; a test that lacks a package which the run needs is skipped."""
    installed = {distribution.name for distribution in metadata.distributions()}
    if missing := sorted(set(packages) - installed):
        pytest.skip(f"not installed: {', '.join(missing)}")
    done = run(name, out)
    assert done.returncode == 0, done.stderr
    return done.stdout


def parts_in(folder):
    """The parts in results.json, by name."""
    return json.loads((folder / "results.json").read_text())["parts"]


def assert_goes_on(name, finished, out, lost, kept_files):
    """A run that has lost parts and files computes these again, and these alone, to the same end."""
    results = json.loads((finished / "results.json").read_text())
    whole = results["parts"]
    assert set(lost) < whole.keys()
    results["parts"] = {part: result for part, result in whole.items() if part not in lost}
    (out / "results.json").write_text(json.dumps(results))
    for path in kept_files:
        copy = out / path.relative_to(finished)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    again = run(name, out, "--workers", "1")
    assert again.returncode == 0, again.stderr
    parts = parts_in(out)
    assert parts.keys() == whole.keys()
    for part in whole:
        assert parts[part]["result"] == whole[part]["result"], part
        # Its own measure of time shows that a part was kept, not computed again to the same end.
        assert part in lost or parts[part] == whole[part]
    assert (out / "report.md").read_text() == (finished / "report.md").read_text()


def assert_refused(name, finished, arguments, message):
    """Bad options are refused in one line, and nothing is lost."""
    before = (finished / "results.json").read_bytes()
    refused = run(name, finished, *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr and refused.stderr.count("\n") == 1
    assert (finished / "results.json").read_bytes() == before


def flags(text):
    """[1, n] bool: which of n images one net still gets right."""
    return torch.tensor([[mark == "1" for mark in text]])
