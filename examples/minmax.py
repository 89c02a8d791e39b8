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

import studies
from fastadv.cli.errors import OneLineErrors
from fastadv.evaluation.study import Study
from fastadv.models.datasets import Images
from minmax_case import DIGITS, FASHION, QUICK, Case, Settings
from minmax_report import report

app = typer.Typer(cls=OneLineErrors, add_completion=False)


@app.callback(invoke_without_command=True)
def main(
    fashion: Annotated[Path | None, studies.fashion_option("for nets of its own beside the digits")] = None,
    workers: studies.Workers = None,
    quick: studies.Quick = False,
    out: studies.Out = Path("out/minmax"),
) -> None:
    """Train nets as usual and on their worst case, attack them, and say what the figures say."""
    settings = QUICK if quick else Settings()
    workers = workers or studies.cores()
    with studies.errors_by_option():
        data = load_data(settings, fashion)
        case = Case(settings, Study(out, asdict(settings), studies.about(workers)), data)
        studies.run(case.study, case.stages(), workers)
        text = report(case)
        (out / "report.md").write_text(text, encoding="utf-8")
    left_out = [studies.FASHION_LEFT_OUT] if fashion is None else []
    studies.show(text, *left_out, f"report.md and results.json are in {out}")


def load_data(settings: Settings, fashion: Path | None) -> dict[str, tuple[Images, Images]]:
    """By name, (images to train on, images held out), drawn with a fixed seed; `fashion` as in --fashion."""
    data = {DIGITS: studies.digits(settings.train_images)}
    if fashion is not None:
        data[FASHION] = studies.fashion_mnist(settings.train_images, fashion)
    return data


if __name__ == "__main__":
    app()
