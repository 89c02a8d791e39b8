"""What measured figures say of where they come from: the GPU's name, and the state of the sources."""

import subprocess
from pathlib import Path

import pytest

from benchmarks import machine


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("NVIDIA GeForce RTX 4090", "nvidia-geforce-rtx-4090"),
        ("Tesla T4", "tesla-t4"),
        ("A/B (c) ../d", "a-b-c-d"),
    ],
)
def test_a_gpus_name_becomes_a_file_name(name: str, expected: str) -> None:
    assert machine.slug(name) == expected


def test_source_state_names_the_commit_and_says_so_where_git_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.delenv("FASTADV_COMMIT", raising=False)
    assert machine.source_state() == {"commit": "unknown", "clean": None}
    monkeypatch.setenv("FASTADV_COMMIT", "abc")
    assert machine.source_state() == {"commit": "abc", "clean": None}

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    head = git("rev-parse", "HEAD").strip()
    assert machine.source_state() == {"commit": head, "clean": True}
    (tmp_path / "new").touch()
    assert machine.source_state() == {"commit": head, "clean": False}
