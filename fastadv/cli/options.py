"""What the attack commands accept, and the experiment that it means."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import typer
from torch import nn

import fastadv
from fastadv._checks import norm_number
from fastadv.attacks import PGD
from fastadv.evaluation import Experiment, Goal, Results, count_classes, in_use
from fastadv.models import ModelError, find_class, load
from fastadv.models.images import LEVELS
from fastadv.models.text import brief


@dataclass(frozen=True)
class Settings:
    """The options, as they were given; `fastadv attack --help` explains them."""

    model: str = "efficientnet_lite0"
    eps: str = "2/255"
    norm: str = "inf"
    steps: int = 60
    untargeted_steps: int = 60
    target: str | None = None
    seed: int = 0
    device: str = "auto"
    batch_size: int = 8
    size: int | None = None


def prepare(settings: Settings, out: Path) -> Experiment:
    """Check every setting and load the model: what can fail does so here or in `open_results`.

    Raises:
        typer.BadParameter: a setting makes no sense, or the model is not to be had.
    """
    norm = parse_norm(settings.norm)
    eps = parse_eps(settings.eps, norm)
    device = parse_device(settings.device)
    net = load_net(settings.model, device, settings.size)
    try:
        steps, seed = settings.untargeted_steps, settings.seed
        untargeted = PGD(eps=eps, norm=norm, steps=steps, early_stop=False, seed=seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    goals = [Goal(untargeted)]
    if settings.target is not None:
        try:
            target = find_class(settings.target, net.class_names, net.classes)
        except ValueError as error:
            raise typer.BadParameter(f"--target: {error}") from error
        goals.append(Goal(replace(untargeted, steps=settings.steps), target))
    radius = f"{norm_name(norm)}, \N{GREEK SMALL LETTER EPSILON} = {settings.eps}"
    return Experiment(
        net.model, net.shape, net.class_names, goals, eps, norm, radius, out, device, settings.batch_size
    )


@dataclass(frozen=True)
class Net:
    """A model on its device, in eval mode, and what is known of it.

    Attributes:
        model: images [B, C, H, W] in [0, 1] -> logits [B, K].
        shape: (C, H, W) of its images.
        class_names: K names, or none.
        classes: K.
    """

    model: nn.Module
    shape: tuple[int, int, int]
    class_names: Sequence[str]
    classes: int


def load_net(spec: str, device: torch.device, size: int | None = None) -> Net:
    """The model that `spec` means, for images of height and width `size`, or its own.

    Raises:
        typer.BadParameter: it is not to be had, cannot be moved to the device, or does not work.
    """
    try:
        model = load(spec)
        shape, class_names = describe(model)
        if size is not None:
            shape = (shape[0], size, size)
        try:
            model = model.to(device)
        except Exception as error:
            raise ModelError(f"cannot be moved to {device}: {brief(error)}") from error
        classes = count_classes(model, shape, device)
        if class_names and len(class_names) != classes:
            raise ModelError(f"the model has {classes} classes and {len(class_names)} class_names")
    except ModelError as error:
        raise typer.BadParameter(f"--model: {error}") from error
    return Net(model, shape, class_names, classes)


def describe(model: nn.Module) -> tuple[tuple[int, int, int], Sequence[str]]:
    """`input_shape` and `class_names` as in `Classifier`; a user's own model need not have them.

    Raises:
        ModelError: images of that shape cannot be read from files, or the names are none.
    """
    shape = getattr(model, "input_shape", (3, 224, 224))
    names = getattr(model, "class_names", ())
    whole = isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(n, int) for n in shape)
    if not whole or shape[0] not in (1, 3) or min(shape) < 1:
        raise ModelError(f"expected an input_shape (1 or 3, H, W), got {shape!r}")
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ModelError(f"expected class_names to be a sequence of strings, got a {type(names).__name__}")
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"expected class_names to be strings, got {name!r}")
    return (shape[0], shape[1], shape[2]), names


def open_results(settings: Settings, out: Path, images: Sequence[Path]) -> Results:
    """Make the folder and its results.json, after checking that nothing of the user's will be overwritten.

    Raises:
        typer.BadParameter: the folder holds one of the images, or files that no earlier run wrote, or
            cannot be made or written.
    """
    folder = os.path.realpath(out)
    for image in images:
        # The link and what it points to may be in different folders.
        if folder in (os.path.realpath(image.parent), os.path.dirname(os.path.realpath(image))):
            raise typer.BadParameter(
                f"--out: {image} is in {out} and might be overwritten; give another folder"
            )
    try:
        if in_use(out):
            raise typer.BadParameter(
                f"--out: {out} holds files, and not the results.json of an earlier run; give a new folder"
            )
        out.mkdir(parents=True, exist_ok=True)
        return Results(out, asdict(settings), fastadv.build_info())
    except OSError as error:
        raise typer.BadParameter(f"--out: cannot write to {out}: {error.strerror}") from error


def parse_eps(text: str, norm: float) -> float:
    """The radius that `text` means: a number or a fraction, such as "0.01", "2/255" or "0.5/255".

    Raises:
        typer.BadParameter: it is not one, not positive, in linf as wide as the image's whole range, or in l0
            less than one element.
    """
    eps = parse_number("--eps", text)
    if math.isinf(norm) and eps >= 1:
        hint = "" if "/" in text else f"; did you mean {text}/{LEVELS}?"
        raise typer.BadParameter(
            f"--eps: images lie in [0, 1], so a linf eps of {text} allows anything{hint}"
        )
    if norm == 0 and eps != math.floor(eps):
        raise typer.BadParameter(
            f"--eps: for norm 0 it counts elements: expected a whole number of at least 1, got {text!r}"
        )
    return eps


def parse_step_size(text: str, eps: float, norm: float) -> float:
    """The length of an attack's step, written as eps is, in a ball of radius eps in the same norm.

    For norm 0, where eps counts elements, it is the l2 length of the step, of any size.

    Raises:
        typer.BadParameter: it is none, or longer than the ball is wide, so that every step would leave it.
    """
    step_size = parse_number("--step-size", text)
    if norm != 0 and step_size > 2 * eps:
        hint = "" if "/" in text or step_size / LEVELS > 2 * eps else f"; did you mean {text}/{LEVELS}?"
        raise typer.BadParameter(
            f"--step-size: the ball is 2 eps = {2 * eps:.3g} wide, and a step of {text} leaves it from "
            f"anywhere{hint}"
        )
    return step_size


def parse_number(option: str, text: str) -> float:
    """A positive number or fraction, such as "0.01" or "2/255".

    Raises:
        typer.BadParameter: it is none.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter(
            f"{option}: expected a positive number or fraction such as 2/255, got {text!r}"
        )
    return value


def parse_norm(text: str) -> float:
    """The p of the lp ball that `text` means: 0, or 1 to "inf", perhaps with a leading l, as in "l1".

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        norm = norm_number(float(text.lower().removeprefix("l")))
    except ValueError:
        norm = None
    if norm is None:
        raise typer.BadParameter(
            f"--norm: expected inf, 2, 1, 0 or another number of at least 1, got {text!r}"
        )
    return norm


def norm_name(norm: float) -> str:
    """The norm as it is printed: a script l and p."""
    return "\N{SCRIPT SMALL L}" + ("\N{INFINITY}" if math.isinf(norm) else f"{norm:g}")


def parse_device(text: str) -> torch.device:
    """The torch device that `text` means; "auto" is the GPU where there is one.

    Raises:
        typer.BadParameter: it is none, or this machine or this build of torch does not have it.
    """
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise typer.BadParameter(f"--device: cannot use {text!r}: {reason[:120]}") from error
    return device
