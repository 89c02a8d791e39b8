"""Two processes on the CPU that train one net."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.defenses.training import BATCHES, loader, net, trainer

ROOT = Path(__file__).parents[2]

RESUME = """
import sys
from pathlib import Path
import torch
from fastadv.defenses.adversarial_training import CheckpointError, process_group
from tests.defenses.training import loader, net, trainer

with process_group(torch.device("cpu")):
    made = trainer(net(), Path(sys.argv[1]), log=None)
    print(made.resume(), flush=True)
    try:
        made.fit(loader("tensors", made.generator), 2)
    except CheckpointError as error:
        print(error, flush=True)
"""


def test_processes_that_go_on_from_different_places_are_refused_in_each_and_change_nothing(tmp_path):
    """Each has a disk of its own, and only on the first there is a checkpoint."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    made = trainer(net(), folders[0])
    made.fit(loader("tensors", made.generator), 1)
    kept = (folders[0] / "checkpoint.pt").read_bytes()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RESUME, str(folder)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, folder in enumerate(folders)
    ]
    try:
        said = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    finally:
        for process in processes:
            process.kill()
    reason = (
        f"Trainer.fit: processes must begin after equally many updates, got [{BATCHES}, 0]: each must read "
        "the same checkpoint, or none"
    )
    assert said == [["True", reason], ["False", reason]]
    assert [process.returncode for process in processes] == [0, 0]
    assert (folders[0] / "checkpoint.pt").read_bytes() == kept
    assert not list(folders[1].iterdir())
