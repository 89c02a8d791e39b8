"""The file that a command draws."""

import os
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure

from fastadv.evaluation import plots

FigureFile = Annotated[
    Path,
    typer.Option(
        "--out",
        dir_okay=False,
        help="The file to draw: .png, .pdf or .svg. One that is there is overwritten.",
    ),
]


def check_figure(out: Path) -> None:
    """Refuse a file that cannot be drawn, before any work.

    Raises:
        typer.BadParameter: its name has no ending of a figure's, or it cannot be written.
    """
    if out.suffix.lower() not in plots.FORMATS:
        raise typer.BadParameter(f"--out: expected a name that ends in {', '.join(plots.FORMATS)}, got {out}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = not out.exists()
        out.open("ab").close()
        if new:
            out.unlink()
    except OSError as error:
        raise typer.BadParameter(f"--out: cannot write {out}: {error.strerror}") from error


def save_figure(figure: Figure, out: Path) -> None:
    """Draw the figure and say where; the file is replaced whole or not at all.

    Raises:
        typer.BadParameter: it cannot be written.
    """
    unfinished = out.with_name(f"{out.name}.part")
    try:
        figure.savefig(unfinished, dpi=150, format=out.suffix.lower().removeprefix("."))
        os.replace(unfinished, out)
    except OSError as error:
        raise typer.BadParameter(f"--out: cannot write {out}: {error.strerror}") from error
    typer.echo(f"The figure is in {out}")
