"""What is written down of a training, and shown while it runs."""

import csv
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

UPDATES = "updates.jsonl"
EPOCHS = "epochs.csv"

Row = Mapping[str, int | float]


class Log:
    """`updates.jsonl`, a line for each update, and `epochs.csv`, a line for each pass over the samples.

    What a resumed training does again is written once: a checkpoint says how long the files were, and they
    are cut there. Lines are buffered until `sizes` or `close`.

    Args:
        folder: of the files; must exist.
        tensorboard: write the same numbers for TensorBoard, into the same folder.

    Raises:
        ModuleNotFoundError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        """Nothing is written yet."""
        self.folder = folder
        self._files: dict[str, TextIO] = {}
        self._writer: Any = None
        self._writer_type: Any = None
        if tensorboard:
            try:
                self._writer_type = importlib.import_module("torch.utils.tensorboard").SummaryWriter
            except ImportError as error:
                raise ModuleNotFoundError(
                    "Log: tensorboard is not installed: pip install tensorboard"
                ) from error

    def open(self, sizes: Mapping[str, int], update: int) -> None:
        """Begin to write after so many bytes of each file, 0 where none are told, and so many updates.

        Raises:
            OSError: a file cannot be written.
        """
        for name in (UPDATES, EPOCHS):
            path = self.folder / name
            path.touch()
            os.truncate(path, min(sizes.get(name, 0), path.stat().st_size))
            self._files[name] = path.open("a", encoding="utf-8", newline="")
        if self._writer_type is not None:
            self._writer = self._writer_type(str(self.folder), purge_step=update)

    def update(self, row: Row) -> None:
        """A line about the update that `row["update"]` counts."""
        self._files[UPDATES].write(json.dumps(dict(row)) + "\n")
        self._scalars(row, "update/", row["update"])

    def epoch(self, row: Row) -> None:
        """A line about the pass that `row["epoch"]` counts; the columns are those of the first."""
        file = self._files[EPOCHS]
        table = csv.DictWriter(file, list(row), lineterminator="\n")
        if file.tell() == 0:
            table.writeheader()
        table.writerow(row)
        self._scalars(row, "epoch/", row["update"])

    def sizes(self) -> dict[str, int]:
        """How many bytes each open file has; what was buffered is written before."""
        for file in self._files.values():
            file.flush()
        return {name: os.fstat(file.fileno()).st_size for name, file in self._files.items()}

    def close(self) -> None:
        """Write what was buffered."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _scalars(self, row: Row, prefix: str, update: int | float) -> None:
        if self._writer is not None:
            for name, value in row.items():
                if name not in ("update", "epoch"):
                    self._writer.add_scalar(prefix + name, value, int(update))


class Bar:
    """The progress of a training on standard error: the pass, the loss, and the accuracy under attack."""

    def __init__(self, epochs: int, batches: int | None, *, quiet: bool) -> None:
        """`batches` of a pass, None if nobody knows; a `quiet` bar is not shown."""
        self.epochs = epochs
        self.batches = batches
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
            transient=True,
        )
        total = None if batches is None else epochs * batches
        self._task = self._progress.add_task("", total=total, epoch=0, epochs=epochs, state="")

    def __enter__(self) -> Self:
        """Show it."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it away."""
        self._progress.stop()

    def show(self, epoch: int, batch: int, loss: float, accuracy: float) -> None:
        """So many passes and batches are done; the means of the pass so far."""
        self._progress.update(
            self._task,
            completed=epoch * (self.batches or 0) + batch,
            epoch=min(epoch + 1, self.epochs),
            state=f"loss {loss:.3f}, right {100 * accuracy:.1f} %",
        )
