"""What the studies in this folder share: their options, images, progress bar and errors in one line.

Each study is a script that keeps its parts in results.json as they are computed (`fastadv.evaluation.study`)
and writes what they say to report.md. What it measures, and in which words, is in modules of its own.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import fastadv
from fastadv.evaluation.study import Part, Study, StudyError
from fastadv.models import ModelError, datasets
from fastadv.models.datasets import Images

HELD_OUT = 1000
"""Images of a data set that no net is trained on."""

FASHION_LEFT_OUT = "Fashion-MNIST was left out: --fashion FOLDER takes it in"

Workers = Annotated[
    int | None,
    typer.Option(min=1, help="How many parts are worked on at a time.", show_default="one for each core"),
]
Quick = Annotated[bool, typer.Option("--quick", help="Everything on a few images, in seconds.")]
Out = Annotated[Path, typer.Option(file_okay=False, help="A new folder, or that of a run that is to go on.")]


def fashion_option(purpose: str) -> Any:
    """An option for the folder of Fashion-MNIST, and what the study wants it for."""
    return typer.Option(
        help=f"Folder with the original files of Fashion-MNIST, {purpose}. Debian's package "
        f"dataset-fashion-mnist puts them into {datasets.DEBIAN_FASHION_MNIST}."
    )


def digits(train_images: int) -> tuple[Images, Images]:
    """(digits to train on, `HELD_OUT` others), drawn at random with a fixed seed."""
    rest, held_out = datasets.split(datasets.digits(), HELD_OUT)
    return Images(*(values[:train_images] for values in rest)), held_out


def fashion_mnist(train_images: int, folder: Path) -> tuple[Images, Images]:
    """The same of Fashion-MNIST: the one of its training set, the others of its test set."""
    whole, test = (datasets.fashion_mnist(part, folder) for part in ("train", "test"))
    return datasets.split(whole, train_images)[1], datasets.split(test, HELD_OUT)[1]


@contextmanager
def errors_by_option() -> Iterator[None]:
    """Images that are not there, and folders that do not fit, are told as bad options are, in one line."""
    try:
        yield
    except ModelError as error:
        raise typer.BadParameter(str(error)) from error
    except (StudyError, OSError) as error:
        raise typer.BadParameter(f"--out: {error}") from error


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def about(workers: int) -> dict[str, Any]:
    """Where and when a study is made, for its results.json."""
    return {
        **fastadv.build_info(),
        "date": datetime.now(UTC).date().isoformat(),
        "workers": workers,
        "load at the start": [round(load, 1) for load in os.getloadavg()],
    }


def run(study: Study, stages: Mapping[str, Sequence[Part]], workers: int) -> None:
    """Compute what is missing, stage by stage, under a progress bar."""
    missing = [study.missing(parts) for parts in stages.values()]
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        speed_estimate_period=180,
    )
    with progress:
        task = progress.add_task("", total=sum(part.cost for parts in missing for part in parts))
        for stage, parts in stages.items():
            progress.update(task, description=stage)
            study.run(parts, workers=workers, on_progress=partial(progress.advance, task))


def show(report: str, *remarks: str) -> None:
    """Print a report, which is in Markdown, and what else there is to say, as it is."""
    console = Console()
    console.print(Markdown(report))
    for remark in remarks:
        console.print(remark, markup=False, highlight=False)
