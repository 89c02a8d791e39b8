"""`fastadv plot`: the studies that end in a figure."""

import math
from pathlib import Path
from typing import Annotated

import typer

from fastadv.defenses import KWTA
from fastadv.evaluation import activation_patterns, percent, plots
from fastadv.evaluation.digit_nets import train_digit_nets
from fastadv.evaluation.landscape import landscape, roughness
from fastadv.models import ModelError

from .figures import FigureFile, check_figure, save_figure
from .options import parse_eps
from .progress import steps_bar

app = typer.Typer(no_args_is_help=True)

WIDTH_GAMMAS = [0.1, 0.3]
ANGLE_GAMMAS = [0.001, 0.02, 0.1, 0.3]
MOST_DRAWS = 100_000

Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything that is drawn at random.")]
Gammas = Annotated[
    list[float], typer.Option("--gamma", help="Sparsity ratio, in (0, 1]; may be given several times.")
]


@app.command()
def patterns_width(
    gamma: Gammas = WIDTH_GAMMAS,
    draws: Annotated[
        int, typer.Option(min=1, max=MOST_DRAWS, help="How many layers are drawn for each width.")
    ] = 256,
    seed: Seed = 0,
    out: FigureFile = Path("patterns-width.png"),
) -> None:
    """How soon two neighbouring inputs have different activation patterns as a layer gets wider.

    Theorem 1 of Xiao et al. (2020) on k-WTA, measured, with ReLU beside it. A few seconds.
    """
    _check(gamma, out)
    with steps_bar("drawing layers") as on_step:
        curves = activation_patterns.patterns_by_width(
            rules=(*gamma, None), draws=draws, seed=seed, on_step=on_step
        )
    save_figure(plots.width_figure(curves), out)


@app.command()
def patterns_angle(
    gamma: Gammas = ANGLE_GAMMAS,
    width: Annotated[int, typer.Option(min=1, max=2**24, help="Width of the layer.")] = 16384,
    draws: Annotated[
        int, typer.Option(min=1, max=MOST_DRAWS, help="How many layers are drawn for each angle.")
    ] = 32,
    seed: Seed = 0,
    out: FigureFile = Path("patterns-angle.png"),
) -> None:
    """How much two inputs' activation patterns share as the angle between them grows.

    Theorem 2 of Xiao et al. (2020) on k-WTA, measured, with ReLU beside it. A few seconds.
    """
    _check(gamma, out)
    with steps_bar("drawing layers") as on_step:
        curves = activation_patterns.patterns_by_angle(
            rules=(*gamma, None), width=width, draws=draws, seed=seed, on_step=on_step
        )
    save_figure(plots.angle_figure(curves), out)


@app.command("landscape")
def loss_landscape(
    gamma: Annotated[float, typer.Option(help="Sparsity ratio of the k-WTA net, in (0, 1].")] = 0.1,
    eps: Annotated[str, typer.Option(help="Half the grid's width, for digits in [0, 1].")] = "0.1",
    points: Annotated[int, typer.Option(min=3, max=1000, help="Points along each side of the grid.")] = 25,
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="How long the two nets are trained.")] = 3,
    seed: Seed = 0,
    out: FigureFile = Path("landscape.png"),
) -> None:
    """The loss around a digit, of a net with ReLU and of one with k-WTA.

    Both nets are small ResNets, trained on the spot from the same start on 4,500 handwritten digits, in about
    half a minute. The digit is the first of the held-out ones that both get right. For nets of your own
    there is fastadv.evaluation.landscape.
    """
    _check([gamma], out)
    radius = parse_eps(eps, math.inf)
    try:
        with steps_bar("training") as on_step:
            trained = train_digit_nets(gamma, epochs=epochs, seed=seed, on_step=on_step)
        surfaces = {
            name: landscape(net, trained.x, trained.y, radius, points, seed)[0]
            for name, net in trained.nets.items()
        }
    except (ModelError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    for name, losses in surfaces.items():
        typer.echo(
            f"{name}: {percent(trained.accuracy[name])} of the held-out digits right; around a "
            f"{int(trained.y)} the loss is {losses.min():.3g} to {losses.max():.3g}, "
            f"its roughness {roughness(losses):.2f} (0: a plane, 1.7: noise)"
        )
    save_figure(plots.landscape_figure(surfaces, radius), out)


def _check(gammas: list[float], out: Path) -> None:
    """Refuse bad settings before any work.

    Raises:
        typer.BadParameter: a gamma is out of range, or the file cannot be written.
    """
    try:
        for gamma in gammas:
            KWTA(gamma)
    except ValueError as error:
        raise typer.BadParameter(f"--gamma: {error}") from error
    check_figure(out)
