"""k-WTA and its answer, on real data: small ResNets with ReLU and with k-WTA, and every attack on both.

    python examples/kwta.py            5,000 handwritten digits, about half an hour on two cores
    python examples/kwta.py --quick    the same in seconds, far too small to mean anything

What is measured goes to results.json as it comes. A run that was ended, in whatever way, goes on from there
when it is started again. docs/kwta.md has the protocol, and the figures of a run.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

import studies
from fastadv.cli.errors import OneLineErrors
from fastadv.cli.options import parse_eps
from fastadv.evaluation.robustness import robustness_figure
from fastadv.evaluation.study import Study, StudyError
from fastadv.models import ModelError, datasets
from fastadv.models.datasets import Images
from kwta_case import QUICK, TRAININGS, Case, Settings
from kwta_report import report

HELD_OUT = 1000
"""Images that no net is trained on."""

app = typer.Typer(cls=OneLineErrors, add_completion=False)


@app.callback(invoke_without_command=True)
def main(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the original files of Fashion-MNIST, instead of the digits. Debian's package "
            f"dataset-fashion-mnist puts them into {datasets.DEBIAN_FASHION_MNIST}."
        ),
    ] = None,
    eps: Annotated[str, typer.Option(help="Radius of the linf ball, in training and in attacks.")] = "0.1",
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="How often each net is trained.", show_default=str(Settings.seeds)),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many images are attacked for each seed.", show_default=str(Settings.images)
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="How many nets are worked on at a time.", show_default="one for each core"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Everything on a few images, in seconds.")] = False,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="A new folder, or that of a run that is to go on.")
    ] = Path("out/kwta"),
) -> None:
    """Train ResNets with ReLU and with k-WTA, attack them in every way, and say what the figures say."""
    settings = replace(
        QUICK if quick else Settings(),
        data="digits" if data is None else "fashion-mnist",
        eps=parse_eps(eps, math.inf),
    )
    try:
        settings = replace(settings, seeds=seeds or settings.seeds, images=images or settings.images)
    except ValueError as error:
        raise typer.BadParameter(f"--images: {error}") from error
    if settings.seeds * settings.images > HELD_OUT:
        raise typer.BadParameter(
            f"--images: {settings.seeds} seeds of {settings.images} are more than the {HELD_OUT} held out"
        )
    workers = workers or studies.cores()
    try:
        trained_on, held_out = load_images(settings, data)
        case = Case(settings, Study(out, asdict(settings), studies.about(workers)), trained_on, held_out)
        stages = {"training": case.trainings(), "attacking": case.attacks()}
        studies.run(case.study, stages, workers)
        tables = {str(training): case.table(training) for training in TRAININGS}
        text = report(case, tables)
        (out / "report.md").write_text(text, encoding="utf-8")
        titles = {f"{training} training, eps = {settings.eps:g}": tables[training] for training in TRAININGS}
        robustness_figure(titles).savefig(out / "robustness.png", dpi=160)
    except ModelError as error:
        raise typer.BadParameter(str(error)) from error
    except (StudyError, OSError) as error:
        raise typer.BadParameter(f"--out: {error}") from error
    console = Console()
    console.print(Markdown(text))
    console.print(f"report.md, robustness.png and results.json are in {out}", markup=False, highlight=False)


def load_images(settings: Settings, folder: Path | None) -> tuple[Images, Images]:
    """(images to train on, images held out), drawn at random with a fixed seed; `folder` as in --data."""
    if folder is None:
        rest, held_out = datasets.split(datasets.digits(), HELD_OUT)
        return Images(*(values[: settings.train_images] for values in rest)), held_out
    whole, test = (datasets.fashion_mnist(part, folder) for part in ("train", "test"))
    return datasets.split(whole, settings.train_images)[1], datasets.split(test, HELD_OUT)[1]


if __name__ == "__main__":
    app()
