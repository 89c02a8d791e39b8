"""Measures robustness curves batch by batch, and keeps them in a file."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastadv.attacks import PGD, minimal_eps
from fastadv.models import ModelError
from fastadv.models.datasets import Images
from fastadv.models.images import ImageError, load_image
from fastadv.models.text import FAILURES, brief, difference

from .experiment import Steps, ask
from .results import write_json
from .robustness_curve import RobustnessCurve

KEYS = {"settings", "versions", "limit", "models", "skipped"}


class CurveFileError(RuntimeError):
    """A file cannot be gone on with; the message is one line that names it."""


class Batch(NamedTuple):
    """Samples that are attacked together.

    Attributes:
        numbers: their places among all samples, by which they get their random numbers.
        names: what each is called.
        x: [B, C, H, W] in [0, 1].
        y: [B] int64 true labels; None where they are not known.
    """

    numbers: Sequence[int]
    names: Sequence[str]
    x: Tensor
    y: Tensor | None


class Measured(NamedTuple):
    """A sample's smallest eps, inf where there is none, and the label that it was measured against."""

    name: str
    label: int
    eps: float


def image_batches(
    paths: Sequence[Path], shape: tuple[int, int, int], size: int, on_skip: Callable[[str], None]
) -> Iterator[Batch]:
    """Image files, `size` at a time, cropped and resized to (C, H, W); `on_skip` gets why one is left out."""
    channels, height, width = shape
    for first in range(0, len(paths), size):
        read = {}
        for number, path in enumerate(paths[first : first + size], start=first):
            try:
                read[number] = load_image(path, (height, width), channels=channels)
            except ImageError as error:
                on_skip(str(error))
        if read:
            names = [str(paths[number]) for number in read]
            yield Batch(list(read), names, torch.stack(list(read.values())), None)


def digit_batches(images: Images, size: int) -> Iterator[Batch]:
    """Labelled images, `size` at a time."""
    for numbers in torch.arange(len(images.y)).split(size):
        names = [f"digit {number}" for number in numbers.tolist()]
        yield Batch(numbers.tolist(), names, images.x[numbers], images.y[numbers])


def measure(
    model: nn.Module,
    attack: PGD,
    batch: Batch,
    device: torch.device,
    on_progress: Callable[[float], None],
) -> list[Measured]:
    """The smallest eps of each sample; without true labels, a sample's label is what the model says of it.

    Args:
        model: images [B, C, H, W] in [0, 1] on `device` -> logits [B, K]; in eval mode.
        attack: its eps is the largest that is tried.
        batch: the samples.
        device: the model's.
        on_progress: called with the number of samples done since the last call, in fractions.

    Raises:
        ModelError: the model fails, or cannot be attacked; the message is one line.
    """
    x = batch.x.to(device)
    y = ask(model, x).argmax(1) if batch.y is None else batch.y.to(device)
    ids = torch.tensor(batch.numbers, device=device)
    try:
        found = minimal_eps(attack, model, x, y, ids=ids, on_step=Steps(on_progress, len(x)))
    except FAILURES as error:  # most of what runs there is the user's model
        raise ModelError(f"the attack fails: {brief(error)}") from error
    return [Measured(*row) for row in zip(batch.names, y.tolist(), found.eps.tolist(), strict=True)]


def files_sha256(paths: Sequence[Path]) -> str:
    """The SHA-256 of those of all files' contents, in hexadecimal; what cannot be read has none."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            content = path.read_bytes() if path.is_file() else None
        except OSError:
            content = None
        digest.update(b"-" if content is None else hashlib.sha256(content).digest())
    return digest.hexdigest()


class CurveResults:
    """What was measured so far; on disk, as JSON, after every `add` and `skip`.

    A smallest eps of inf is null there: JSON has no infinity.
    """

    def __init__(
        self, path: Path, settings: dict[str, object], versions: dict[str, str], limit: float
    ) -> None:
        """Nothing is written yet; `settings` and `versions` are kept as they are; no eps is above `limit`."""
        self.path = path
        self.settings = settings
        self.versions = versions
        self.limit = limit
        self.models: dict[str, list[Measured]] = {}
        self.skipped: list[str] = []

    def resume(self) -> int:
        """Go on with what an earlier run measured, if the file is there.

        Its versions are kept, those of whoever began, and not compared.

        Returns:
            How many samples were measured, each for each model counted.

        Raises:
            CurveFileError: the file is of other settings, or not as it was written.
            OSError: it cannot be read.
        """
        if not self.path.exists():
            return 0
        content = json.loads(self.path.read_text(encoding="utf-8"))
        try:
            written = content["settings"]
            # An eps may be written in several ways: .30 is 0.3.
            same = {"eps": written["eps"]} if content["limit"] == self.limit else {}
            if other := difference(self.settings | same, written):
                raise CurveFileError(f"{self.path}: of another run: {other}")
            self.models = {
                model: [
                    Measured(row["name"], row["label"], math.inf if row["eps"] is None else row["eps"])
                    for row in measured["samples"]
                ]
                for model, measured in content["models"].items()
            }
            self.curves()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CurveFileError(f"{self.path} is not as it was written") from error
        self.versions = content["versions"]
        return sum(map(len, self.models.values()))

    def missing(self, model: str, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Those of a model's batches that no earlier run has measured. Raises CurveFileError as `resume`."""
        names = [sample.name for sample in self.models.get(model, [])]
        for batch in batches:
            size = len(batch.names)
            if not names:
                yield batch
            elif names[:size] != list(batch.names):
                raise CurveFileError(f"{self.path} is not as it was written")
            names = names[size:]

    def add(self, model: str, samples: Sequence[Measured]) -> None:
        """Keep what was measured of a model. Raises OSError where it cannot be written."""
        self.models.setdefault(model, []).extend(samples)
        self._write()

    def skip(self, reason: str) -> bool:
        """Keep why a file was left out; False if that was known. Raises OSError as `add`."""
        if reason in self.skipped:
            return False
        self.skipped.append(reason)
        self._write()
        return True

    def curves(self) -> dict[str, RobustnessCurve]:
        """The curve of each model, over its samples so far."""
        return {
            model: RobustnessCurve(
                torch.tensor([sample.eps for sample in samples], dtype=torch.float64), self.limit
            )
            for model, samples in self.models.items()
        }

    def _write(self) -> None:
        models = {
            model: {
                "n": len(curve.eps),
                "median_eps": _finite(curve.median),
                "curve": [
                    {"eps": eps, "accuracy": rate.value, "interval": rate.interval()}
                    for eps, rate in zip(*curve.steps(), strict=True)
                ],
                "samples": [
                    {"name": name, "label": label, "eps": _finite(eps)}
                    for name, label, eps in self.models[model]
                ],
            }
            for model, curve in self.curves().items()
        }
        write_json(
            self.path,
            {
                "settings": self.settings,
                "versions": self.versions,
                "limit": self.limit,
                "models": models,
                "skipped": self.skipped,
            },
        )


def is_curve_file(path: Path) -> bool:
    """Whether an earlier run wrote this file. Raises OSError where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and content.keys() == KEYS


def _finite(eps: float) -> float | None:
    return eps if math.isfinite(eps) else None
