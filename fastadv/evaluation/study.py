"""Long experiments in parts: each part is computed once and kept, so a kill costs the parts in hand only."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastadv.models.text import difference

from .results import write_json

OnStep = Callable[[int, int], None]
Compute = Callable[[OnStep], dict[str, Any]]


class StudyError(RuntimeError):
    """A folder holds something else than this study; the message is one line."""


@dataclass(frozen=True)
class Part:
    """One of many parts of a study that do not depend on each other.

    Attributes:
        name: under which its result is kept.
        spec: what it depends on beside the study's settings, in words; where that has changed, the part is
            computed anew.
        cost: how long it takes beside others, in any unit.
        compute: is given on_step(steps done, all steps), to be called now and then, and returns what JSON can
            hold. It runs on a thread of its own, so it must not use the global random generator.
        file: what it leaves behind beside its result; without that file it is not done.
    """

    name: str
    spec: str
    cost: float
    compute: Compute
    file: Path | None = None


class Study:
    """The results so far, on disk as `results.json` whenever a part is done.

    Attributes:
        path: that file.
        settings: what all parts depend on.
        about: the circumstances of the first run, such as versions; kept, never compared.
        parts: {name: {"spec", "seconds" of CPU time, "result"}}.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Begin a study in a new or empty folder, or go on with the one that is there.

        Raises:
            StudyError: the folder holds other files, or a study with other settings.
            OSError: it cannot be read or written.
        """
        self.path = folder / "results.json"
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))  # as they will be read back
        self.about: dict[str, Any] = dict(about)
        self.parts: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._resume()
        elif any(path.suffix != ".part" for path in folder.iterdir()):  # one may be left of a killed start
            raise StudyError(f"{folder} holds files, and not the results.json of a study: give a new folder")
        self._write()

    def _resume(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError:
            content = None
        if not isinstance(content, dict) or content.keys() != {"settings", "about", "parts"}:
            raise StudyError(f"{self.path} is not the file of a study: give a new folder")
        if other := difference(self.settings, content["settings"]):
            raise StudyError(f"{self.path}: of another study: {other}: give a new folder")
        self.about, self.parts = content["about"], content["parts"]

    def __getitem__(self, name: str) -> Any:
        """The result of a part; KeyError if it is not there."""
        return self.parts[name]["result"]

    def missing(self, parts: Sequence[Part]) -> list[Part]:
        """Those of the parts that have no result yet, or one of another spec, or have lost their file."""
        return [
            part
            for part in parts
            if self.parts.get(part.name, {}).get("spec") != part.spec
            or (part.file is not None and not part.file.exists())
        ]

    def run(self, parts: Sequence[Part], *, workers: int, on_progress: Callable[[float], None]) -> None:
        """Compute what is missing, the costliest first, each part on one thread.

        One thread, so that a result does not depend on how many cores there are: where sums are divided among
        threads, the last bits follow the division. Several parts run side by side instead.

        Args:
            parts: they must not need each other's results.
            workers: how many parts run at a time, at least 1.
            on_progress: called, from any thread, with the cost of what was done since the last call.

        Raises:
            Exception: what a part raises; those in hand are then given up, finished ones are kept.
        """
        todo = sorted(self.missing(parts), key=lambda part: -part.cost)
        given_up = threading.Event()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # holds for threads that are yet to start
        try:
            with ThreadPoolExecutor(workers) as pool:
                try:
                    futures = [pool.submit(self._compute, part, given_up, on_progress) for part in todo]
                    for future in as_completed(futures):
                        future.result()
                except BaseException:
                    given_up.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            torch.set_num_threads(threads)

    def _compute(self, part: Part, given_up: threading.Event, on_progress: Callable[[float], None]) -> None:
        done = 0.0

        def on_step(step: int, steps: int) -> None:
            nonlocal done
            if given_up.is_set():
                raise _GivenUp
            on_progress((step / steps - done) * part.cost)
            done = step / steps

        start = time.thread_time()
        result = part.compute(on_step)
        seconds = round(time.thread_time() - start, 2)
        on_step(1, 1)
        with self._lock:
            self.parts[part.name] = {"spec": part.spec, "seconds": seconds, "result": result}
            self._write()

    def _write(self) -> None:
        write_json(self.path, {"settings": self.settings, "about": self.about, "parts": self.parts})


class _GivenUp(BaseException):
    """Ends a part whose study has failed elsewhere."""
