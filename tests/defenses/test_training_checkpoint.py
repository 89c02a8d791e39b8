import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fastadv.defenses.adversarial_training import CheckpointError, checkpoint
from tests.defenses.training import BATCHES, EPOCHS, loader, net, run, trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def epochs(folder):
    """The lines of epochs.csv without what a clock says."""
    lines = [line.split(",") for line in (folder / "epochs.csv").read_text().splitlines()]
    place = lines[0].index("seconds")
    return [line[:place] + line[place + 1 :] for line in lines]


@pytest.mark.parametrize(("kind", "at"), [("tensors", BATCHES + 4), ("dataloader", 2 * BATCHES + 5)])
def test_a_training_killed_in_the_middle_of_a_pass_ends_with_the_same_weights_and_logs(tmp_path, kind, at):
    """Killed between checkpoints, so that updates are done twice."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    expected = run(whole, kind)
    child = subprocess.run(
        [sys.executable, "-m", "tests.defenses.training", killed, kind, str(at)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert child.returncode == -signal.SIGKILL
    kept = checkpoint.read(killed / "checkpoint.pt")["position"]
    assert 0 < kept["batch"] < BATCHES
    assert kept["update"] < at
    state = torch.get_rng_state()
    assert same(run(killed, kind), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert (killed / "updates.jsonl").read_text() == (whole / "updates.jsonl").read_text()
    assert epochs(killed) == epochs(whole)


def test_a_training_that_is_done_stays_as_it_is_and_more_passes_go_on(tmp_path):
    first = run(tmp_path, "tensors")
    log = (tmp_path / "updates.jsonl").read_text()
    assert same(run(tmp_path, "tensors"), first)
    assert (tmp_path / "updates.jsonl").read_text() == log
    more = trainer(net(), tmp_path)
    assert more.resume()
    more.fit(loader("tensors", more.generator), EPOCHS + 1)
    assert more.position.update == (EPOCHS + 1) * BATCHES


def test_whoever_is_killed_while_writing_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    checkpoint.write(path, {"number": 1})

    def killed(*_):
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, step, killed)
            checkpoint.write(path, {"number": 2})
        assert checkpoint.read(path) == {"number": 1}
    checkpoint.write(path, {"number": 3})
    assert checkpoint.read(path) == {"number": 3}
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def kept(tmp_path):
    made = trainer(net(), tmp_path)
    made.fit(loader("tensors", made.generator), 1)
    return tmp_path / "checkpoint.pt"


def refused(path, message, model=None, **settings):
    """The trainer refuses the file in one line, and nothing of it has changed."""
    model = net() if model is None else model
    made = trainer(model, path.parent, **settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as error:
        made.resume()
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert same(before, model.state_dict())
    assert made.position.update == 0
    assert made.optimizer.state_dict()["state"] == {}


@pytest.mark.parametrize("part", [0, 1, 60, 0.5, -1])
def test_a_file_cut_short_anywhere_is_refused(kept, part):
    content = kept.read_bytes()
    kept.write_bytes(content[: int(part * len(content)) if isinstance(part, float) else part])
    refused(kept, "is damaged or cut short" if part in (0.5, -1) else "is no checkpoint of fastadv")


def test_a_file_with_one_bit_flipped_is_refused_wherever_it_is(kept):
    content = kept.read_bytes()
    for place in range(45, len(content), len(content) // 7):
        kept.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        refused(kept, "is damaged or cut short|is no checkpoint of fastadv")


def test_another_kind_of_file_is_refused(kept):
    for content in (b"PK\x03\x04 a zip file", b"{}", b"\0" * 1000):
        kept.write_bytes(content)
        refused(kept, "is no checkpoint of fastadv")
    torch.save(net().state_dict(), kept)
    refused(kept, "is no checkpoint of fastadv")


class Harmful:
    """What pickle would call when it is read."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_nothing_but_data_is_unpickled(kept, monkeypatch):
    monkeypatch.chdir(kept.parent)
    checkpoint.write(kept, {"model": Harmful()})
    refused(kept, "holds more than data")
    assert not (kept.parent / "harmed").exists()


def test_the_checkpoint_of_another_training_is_refused(kept):
    wider = nn.Sequential(nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 3))
    refused(kept, r"of another model: 0.weight is float32 \[9, 5\] here and float32 \[8, 5\] there", wider)
    deeper = net()
    deeper.append(nn.Linear(3, 3))
    refused(kept, r"parameters\[0\] is 8 here and 6 there", deeper)
    refused(kept, "schedule is 'NoneType' here and 'LambdaLR' there", schedule=None)
    refused(kept, "of another training: eps is 0.1 here and None there", settings={"eps": 0.1})
    checkpoint.write(kept, {"model": {}})
    refused(kept, "of another training: optimizer is dict here and missing there")


def test_no_checkpoint_is_a_beginning(tmp_path):
    assert not trainer(net(), tmp_path).resume()
    assert not trainer(net()).resume()
