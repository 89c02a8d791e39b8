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

import studies
from fastadv.cli.errors import OneLineErrors
from fastadv.cli.options import parse_eps
from fastadv.evaluation.robustness import robustness_figure
from fastadv.evaluation.study import Study
from kwta_case import QUICK, TRAININGS, Case, Settings
from kwta_report import report

app = typer.Typer(cls=OneLineErrors, add_completion=False)


@app.callback(invoke_without_command=True)
def main(
    data: Annotated[Path | None, studies.fashion_option("instead of the digits")] = None,
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
    workers: studies.Workers = None,
    quick: studies.Quick = False,
    out: studies.Out = Path("out/kwta"),
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
    if settings.seeds * settings.images > studies.HELD_OUT:
        wanted = f"{settings.seeds} seeds of {settings.images}"
        raise typer.BadParameter(f"--images: {wanted} are more than the {studies.HELD_OUT} held out")
    workers = workers or studies.cores()
    with studies.errors_by_option():
        n = settings.train_images
        data_set = studies.digits(n) if data is None else studies.fashion_mnist(n, data)
        case = Case(settings, Study(out, asdict(settings), studies.about(workers)), *data_set)
        stages = {"training": case.trainings(), "attacking": case.attacks()}
        studies.run(case.study, stages, workers)
        tables = {str(training): case.table(training) for training in TRAININGS}
        text = report(case, tables)
        (out / "report.md").write_text(text, encoding="utf-8")
        titles = {f"{training} training, eps = {settings.eps:g}": tables[training] for training in TRAININGS}
        robustness_figure(titles).savefig(out / "robustness.png", dpi=160)
    studies.show(text, f"report.md, robustness.png and results.json are in {out}")


if __name__ == "__main__":
    app()
