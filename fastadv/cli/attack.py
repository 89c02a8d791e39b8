"""`fastadv attack` and `fastadv demo`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fastadv.evaluation import Subject
from fastadv.models import ModelError
from fastadv.models.images import sample_files

from .options import Settings, open_results, prepare
from .table import summary, table

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes the GPU where there is one.")]
BatchSize = Annotated[int, typer.Option(min=1, help="How many images are attacked together.")]
Out = Annotated[
    Path,
    typer.Option(
        file_okay=False,
        help="Folder for figures, PNGs and results.json: a new or empty one, or that of an earlier run, "
        "whose files are replaced; never the images' own.",
    ),
]


def attack(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="JPEG or PNG files.")],
    model: Annotated[
        str, typer.Option(help="A model's name, or your own factory: module:callable or file.py:callable.")
    ] = "efficientnet_lite0",
    eps: Annotated[
        str,
        typer.Option(
            help="Radius of the ball, for images in [0, 1], as in 2/255; for norm 0 a number of elements."
        ),
    ] = "2/255",
    norm: Annotated[str, typer.Option(help="The ball's norm: inf, 2, 1, 0, or any number from 1.")] = "inf",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each attack.")] = 60,
    target: Annotated[
        str | None,
        typer.Option(help='Attack towards a class as well: a name such as "black swan", or a number.'),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacks' random start.")] = 0,
    device: Device = "auto",
    batch_size: BatchSize = 8,
    size: Annotated[
        int | None, typer.Option(min=1, help="Height and width of the images; the model's own if not given.")
    ] = None,
    out: Out = Path("out"),
) -> None:
    """Change images so little that no eye can see it, and so that a model takes them for something else.

    Images are resized to cover the model's input, and their centre is cut out. The untargeted attack leads
    away from what the model says about the clean image. A file that cannot be read is named and skipped, and
    the exit code is then 1; it is 2 if an option makes no sense or the model fails.
    """
    settings = Settings(model, eps, norm, steps, steps, target, seed, device, batch_size, size)
    run([Subject(path) for path in images], settings, out)


def demo(out: Out = Path("out/demo"), device: Device = "auto", batch_size: BatchSize = 8) -> None:
    """Break an ImageNet classifier on 20 photographs: eps 2/255, untargeted and towards "black swan".

    Works offline, in a minute or two on two CPU cores.
    """
    try:
        subjects = [Subject(path, label) for path, label in sample_files("imagenet")]
    except ModelError as error:
        raise typer.BadParameter(str(error)) from error
    settings = Settings(untargeted_steps=20, target="black swan", device=device, batch_size=batch_size)
    run(subjects, settings, out)


def run(subjects: Sequence[Subject], settings: Settings, out: Path) -> None:
    """Attack the images and show what came of it.

    Raises:
        typer.BadParameter: a setting makes no sense, the model fails, or a file cannot be written; what was
            done until then is kept.
        typer.Exit: with code 1, a file was skipped.
    """
    experiment = prepare(settings, out)
    results = open_results(settings, out, [subject.path for subject in subjects])
    progress = Progress(
        TextColumn("attacking"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} images"),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = progress.add_task("", total=len(subjects))

    def on_progress(images: float) -> None:
        progress.advance(task, images)

    def on_skip(reason: str) -> None:
        results.skip(reason)
        progress.console.print(f"skipped {reason}", style="red", markup=False, soft_wrap=True)

    try:
        with progress:
            for record in experiment.run(subjects, on_progress=on_progress, on_skip=on_skip):
                results.add(record)
    except ModelError as error:
        raise typer.BadParameter(f"--model: {error}") from error
    except OSError as error:
        raise typer.BadParameter(f"--out: {error}") from error
    console = Console()
    if results.records:
        console.print(table(results, experiment))
        console.print(summary(results, experiment), markup=False, highlight=False, soft_wrap=True)
    if results.skipped:
        console.print(f"{len(results.skipped)} of {len(subjects)} files were skipped: see above", style="red")
        raise typer.Exit(1)
