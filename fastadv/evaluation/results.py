"""What came of attacking images, and the file that keeps it."""

import json
import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Prediction:
    """What a model says about an image."""

    label: int
    name: str
    confidence: float


@dataclass(frozen=True)
class Outcome:
    """One attack on one image.

    Attributes:
        prediction: what the model says about the attack's result.
        success: that is the target, or in an untargeted attack not the label attacked.
        linf, l2: distance to the clean image, in units of [0, 1].
        file: the result rounded to 8 bits, beside results.json.
        file_prediction, file_linf, file_l2: the same of that file, read back.
        survived: that file is a success.
    """

    prediction: Prediction
    success: bool
    linf: float
    l2: float
    file: str
    file_prediction: Prediction
    file_linf: float
    file_l2: float
    survived: bool


@dataclass(frozen=True)
class Record:
    """Every attack on one image.

    Attributes:
        file: the image.
        truth: the name of its true class, None where that is not known.
        before: what the model says about the clean image.
        outcomes: by the attack's goal, "untargeted" or "targeted".
        figure: the picture, beside results.json.
    """

    file: str
    truth: str | None
    before: Prediction
    outcomes: dict[str, Outcome]
    figure: str


FILE = "results.json"


class Results:
    """The records so far, on disk as `results.json` from the first moment on.

    A file name that is no valid text keeps its undecodable bytes there, as `os.fsencode` understands them.
    """

    def __init__(self, folder: Path, settings: dict[str, object], versions: dict[str, str]) -> None:
        """Write a file without records into `folder`; `settings` and `versions` are kept as they are.

        Raises:
            OSError: it cannot be written there.
        """
        self.path = folder / FILE
        self.settings = settings
        self.versions = versions
        self.records: list[Record] = []
        self.skipped: list[str] = []
        self._write()

    def add(self, record: Record) -> None:
        """Keep a record."""
        self.records.append(record)
        self._write()

    def skip(self, reason: str) -> None:
        """Keep why a file was left out."""
        self.skipped.append(reason)
        self._write()

    def count(self, goal: str, *, survived: bool = False, confidence: float = 0.0) -> int:
        """How many images an attack broke.

        Args:
            goal: "untargeted" or "targeted".
            survived: ask the 8-bit file, not the attack's own result.
            confidence: count only predictions at least this sure.
        """
        outcomes: Iterable[Outcome] = (record.outcomes[goal] for record in self.records)
        if survived:
            return sum(o.survived and o.file_prediction.confidence >= confidence for o in outcomes)
        return sum(o.success and o.prediction.confidence >= confidence for o in outcomes)

    def _write(self) -> None:
        content = {
            "settings": self.settings,
            "versions": self.versions,
            "images": [asdict(record) for record in self.records],
            "skipped": self.skipped,
        }
        write_json(self.path, content)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file whole or not at all."""
    # A kill in the middle of a write must leave the previous file whole.
    unfinished = path.with_name(f"{path.name}.part")
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # UTF-8 cannot hold the characters that stand for undecodable bytes of a file name; the backslash
    # that replaces them makes a JSON escape, which is read back as the same character.
    unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(unfinished, path)


def in_use(folder: Path) -> bool:
    """Whether `folder` exists and holds files, but no `results.json` of an earlier experiment.

    Only its own files count, not those in folders below it, except that nothing else may be called
    `results.json`.

    Raises:
        OSError: it cannot be listed, or is no folder.
    """
    if not folder.exists():
        return False
    entries = [path.name for path in folder.iterdir() if path.name == FILE or not path.is_dir()]
    return bool(entries) and not is_json_of(folder / FILE, {"settings", "versions", "images", "skipped"})


def is_json_of(path: Path, keys: Set[str]) -> bool:
    """Whether a file holds a JSON object with these keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        return False
    return isinstance(content, dict) and content.keys() == keys
