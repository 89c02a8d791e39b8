"""The commands in one place."""

import typer

from .attack import attack, demo
from .curve import curve
from .detect import detect
from .errors import OneLineErrors
from .info import info
from .plot import app as plot
from .train import train

app = typer.Typer(
    cls=OneLineErrors,
    help="Adversarial robustness in PyTorch, with its own kernels.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
)
app.command()(info)
app.command()(attack)
app.command()(demo)
app.command()(curve)
app.command()(detect)
app.command()(train)
app.add_typer(plot, name="plot", help="Draw what was measured of a defence.")
