"""The min-max game on real data: nets that were trained on the worst case, and what that is worth.

    python examples/minmax.py            5,000 handwritten digits, about 8 minutes on two free cores
    python examples/minmax.py --quick    the same in seconds, far too small to mean anything

Linear classifiers first, whose worst case is known exactly; then convnets, trained as usual and by PGD, under
attacks that look for it. What is measured goes to results.json as it comes. A run that was ended, in whatever
way, goes on from there when it is started again. docs/minmax.md has the protocol, and the figures of a run.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

import studies
from fastadv.cli.errors import OneLineErrors
from fastadv.evaluation.study import Study, StudyError
from fastadv.models import ModelError, datasets
from fastadv.models.datasets import Images
from minmax_case import DIGITS, FASHION, QUICK, Case, Settings
from minmax_report import report

HELD_OUT = 1000
"""Images of each data set that no net here is trained on."""

app = typer.Typer(cls=OneLineErrors, add_completion=False)


@app.callback(invoke_without_command=True)
def main(
    fashion: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the original files of Fashion-MNIST, for nets of its own beside the digits. "
            f"Debian's package dataset-fashion-mnist puts them into {datasets.DEBIAN_FASHION_MNIST}."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="How many parts are worked on at a time.", show_default="one for each core"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Everything on a few images, in seconds.")] = False,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="A new folder, or that of a run that is to go on.")
    ] = Path("out/minmax"),
) -> None:
    """Train nets as usual and on their worst case, attack them, and say what the figures say."""
    settings = QUICK if quick else Settings()
    workers = workers or studies.cores()
    try:
        data = load_data(settings, fashion)
        case = Case(settings, Study(out, asdict(settings), studies.about(workers)), data)
        studies.run(case.study, case.stages(), workers)
        text = report(case)
        (out / "report.md").write_text(text, encoding="utf-8")
    except ModelError as error:
        raise typer.BadParameter(str(error)) from error
    except (StudyError, OSError) as error:
        raise typer.BadParameter(f"--out: {error}") from error
    console = Console()
    console.print(Markdown(text))
    if fashion is None:
        console.print("Fashion-MNIST was left out: --fashion FOLDER takes it in", highlight=False)
    console.print(f"report.md and results.json are in {out}", markup=False, highlight=False)


def load_data(settings: Settings, fashion: Path | None) -> dict[str, tuple[Images, Images]]:
    """By name, (images to train on, images held out), drawn with a fixed seed; `fashion` as in --fashion."""
    rest, held_out = datasets.split(datasets.digits(), HELD_OUT)
    data = {DIGITS: (Images(*(values[: settings.train_images] for values in rest)), held_out)}
    if fashion is not None:
        whole, test = (datasets.fashion_mnist(part, fashion) for part in ("train", "test"))
        trained_on = datasets.split(whole, settings.train_images)[1]
        data[FASHION] = (trained_on, datasets.split(test, HELD_OUT)[1])
    return data


if __name__ == "__main__":
    app()
