"""`fastadv detect`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from fastadv.defenses import OddsAreOdd, OddsFileError
from fastadv.evaluation import percent
from fastadv.models import ModelError, class_name, load
from fastadv.models.images import ImageError, load_image
from fastadv.models.text import FAILURES, brief, printable

from .attack import BatchSize, Device
from .options import describe, parse_device


@dataclass(frozen=True)
class Verdict:
    """What the detector says about one image."""

    file: Path
    label: int
    confidence: float
    score: float
    flagged: bool
    known: bool
    corrected: int


def detect(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="JPEG or PNG files.")],
    detector: Annotated[
        Path, typer.Option(dir_okay=False, help="A detector's file, as fastadv.OddsAreOdd.save writes it.")
    ],
    model: Annotated[
        str,
        typer.Option(help="The model it was made for: a name, module:callable or file.py:callable."),
    ],
    fpr: Annotated[
        float | None,
        typer.Option(
            help="Flag at most this part of clean images, such as 0.01, by the scores that the file keeps; "
            "its own cutoff if not given."
        ),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = 8,
) -> None:
    """Tell which images were changed by an attack, from how noise moves what the model says about them.

    "The odds are odd" (Roth et al. 2019). Images are resized to cover the model's input, and their centre is
    cut out; resizing may itself undo an attack. Nothing is said of classes of which the detector knows too
    little. A file that cannot be read is named and skipped, and the exit code is then 1; it is 2
    if an option makes no sense or the model fails.
    """
    examiner, class_names = _prepare(detector, model, fpr, device)
    console = Console(stderr=True)
    skipped: list[str] = []
    bar = track(
        _batches(images, examiner, batch_size, skipped),
        description="examining",
        total=-(-len(images) // batch_size),
        console=console,
        transient=True,
    )
    try:
        verdicts = [verdict for batch in bar for verdict in batch]
    except FAILURES as error:
        raise typer.BadParameter(f"--model: {brief(error)}") from error
    for reason in skipped:
        console.print(f"skipped {reason}", style="red", markup=False, soft_wrap=True)
    if verdicts:
        out = Console()
        out.print(_table(verdicts, class_names))
        flagged = sum(verdict.flagged for verdict in verdicts)
        out.print(
            f"{flagged} of {len(verdicts)} flagged as adversarial (score above {examiner.cutoff:.2f})",
            highlight=False,
        )
    if skipped:
        console.print(f"{len(skipped)} of {len(images)} files were skipped: see above", style="red")
        raise typer.Exit(1)


def _prepare(file: Path, spec: str, fpr: float | None, device: str) -> tuple[OddsAreOdd, Sequence[str]]:
    """The detector around its model, and the names of the classes.

    Raises:
        typer.BadParameter: an option makes no sense, or a file or model is not to be had.
    """
    place = parse_device(device)
    try:
        model = load(spec)
        _, class_names = describe(model)
        model = model.to(place)
    except ModelError as error:
        raise typer.BadParameter(f"--model: {error}") from error
    try:
        detector = OddsAreOdd.load(file, model)
    except OddsFileError as error:
        raise typer.BadParameter(f"--detector: {error}") from error
    except OSError as error:
        raise typer.BadParameter(f"--detector: cannot read {file}: {error.strerror}") from error
    if len(detector.input_shape) != 3 or detector.input_shape[0] not in (1, 3):
        shape = list(detector.input_shape)
        raise typer.BadParameter(f"--detector: {file}: made for samples {shape}, not for images")
    if detector.bounds is not None and detector.bounds != (0, 1):
        box = list(detector.bounds)
        raise typer.BadParameter(f"--detector: {file}: made for samples in {box}, not for images in [0, 1]")
    if fpr is not None:
        try:
            detector.cutoff = detector.threshold(fpr)
        except ValueError as error:
            raise typer.BadParameter(f"--fpr: {error}") from error
    return detector, class_names


def _batches(
    images: Sequence[Path], detector: OddsAreOdd, batch_size: int, skipped: list[str]
) -> Iterator[list[Verdict]]:
    """The verdicts on the images, batch by batch; why one cannot be read goes to `skipped`."""
    channels, height, width = detector.input_shape
    for first in range(0, len(images), batch_size):
        read, pixels = [], []
        for path in images[first : first + batch_size]:
            try:
                pixels.append(load_image(path, (height, width), channels=channels))
                read.append(path)
            except ImageError as error:
                skipped.append(str(error))
        if not pixels:
            continue
        device = detector.mean.device
        said = detector.examine(torch.stack(pixels).to(device))
        confidence = said.logits.double().softmax(1).amax(1).nan_to_num()
        columns = (said.predicted, confidence, said.score, said.flagged, said.score > -torch.inf, said.label)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        yield [Verdict(path, *row) for path, row in zip(read, rows, strict=True)]


def _table(verdicts: Sequence[Verdict], class_names: Sequence[str]) -> Table:
    """One line for each image; names of files and classes are shown as they are, without markup."""
    view = Table(box=SIMPLE_HEAD)
    view.add_column("image", no_wrap=True, max_width=28)
    view.add_column("the model says")
    view.add_column("score", justify="right")
    view.add_column("verdict")
    for verdict in verdicts:
        answer = Text(printable(class_name(verdict.label, class_names)))
        answer.append(f" {percent(verdict.confidence)}", style="dim")
        finding = Text("no objection" if verdict.known else "unknown: too little is known of this class")
        if verdict.flagged:
            finding = Text("adversarial", style="red")
            if verdict.corrected != verdict.label:
                finding.append(printable(f", rather: {class_name(verdict.corrected, class_names)}"))
        view.add_row(Text(printable(verdict.file.name)), answer, f"{verdict.score:.2f}", finding)
    return view
