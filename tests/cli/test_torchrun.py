import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.training import SMALL, folder, nets, train

__all__ = ["folder", "nets"]
pytest.importorskip("torchvision")

ROOT = Path(__file__).parents[2]


def torchrun(*arguments):
    """Two processes on the CPU: (exit code, stderr, stdout); a job that hangs is ended after five minutes."""
    job = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "fastadv", "train"]
        + [str(argument) for argument in (*arguments, "--device", "cpu")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        return (*job.communicate(timeout=300), job.returncode)[::-1]
    except subprocess.TimeoutExpired:
        job.terminate()  # torchrun ends its processes then; it could not if it were killed
        job.communicate(timeout=60)
        pytest.fail("the job hangs")


def updates(out):
    return [json.loads(line) for line in (out / "updates.jsonl").read_text().splitlines()]


def test_two_processes_with_half_of_each_batch_train_as_one_does(tmp_path, nets, folder):
    """Batches of 5 in parts of 3 and 2, and one sample of which the second process has none."""
    arguments = ("--data", folder, "--model", f"{nets}:Net", *SMALL, "--epochs", 3, "--accumulate", 3)
    one, two = tmp_path / "one", tmp_path / "two"
    alone = train(*arguments, "--out", one)
    assert alone.exit_code == 0, alone.output
    code, errors, said = torchrun(*arguments, "--out", two)
    assert code == 0, errors
    assert len(updates(one)) == len(updates(two)) == 6
    for mine, ours in zip(updates(one), updates(two), strict=True):
        assert ours["loss"] == pytest.approx(mine["loss"], abs=1e-5)
        assert ours["accuracy"] == mine["accuracy"]
    states = [torch.load(out / "model.pt", weights_only=True) for out in (one, two)]
    for name, value in states[0].items():
        assert (states[1][name] - value).abs().max() < 1e-5
    assert said.count("epoch 3/3") == 1


def test_a_killed_process_ends_the_job_with_an_error(tmp_path, nets, folder):
    arguments = ("--data", folder, "--model", f"{nets}:Killed", *SMALL, "--epochs", 3)
    code, errors, _ = torchrun(*arguments, "--out", tmp_path / "out")
    assert code == 1
    assert "Signal 9 (SIGKILL)" in errors
    assert not (tmp_path / "out" / "model.pt").exists()
