"""What the attack commands accept, and the experiment that it means."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import typer

from fastadv.attacks import PGD
from fastadv.evaluation import Experiment, Goal, count_classes
from fastadv.models import ModelError, find_class, load


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
    """Check every setting, load the model, make the folder: whatever can fail does so here, before any work.

    Raises:
        typer.BadParameter: a setting makes no sense, or the model is not to be had.
    """
    norm = parse_norm(settings.norm)
    eps = parse_eps(settings.eps, norm)
    device = parse_device(settings.device)
    try:
        model = load(settings.model).to(device)
        # A user's own model need not have what `Classifier` has.
        shape: tuple[int, int, int] = getattr(model, "input_shape", (3, 224, 224))
        class_names: Sequence[str] = getattr(model, "class_names", ())
        if settings.size is not None:
            shape = (shape[0], settings.size, settings.size)
        classes = count_classes(model, shape, device)
        if class_names and len(class_names) != classes:
            raise ModelError(f"the model has {classes} classes and {len(class_names)} class_names")
    except ModelError as error:
        raise typer.BadParameter(f"--model: {error}") from error
    try:
        steps, seed = settings.untargeted_steps, settings.seed
        untargeted = PGD(eps=eps, norm=norm, steps=steps, early_stop=False, seed=seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    goals = [Goal(untargeted)]
    if settings.target is not None:
        try:
            target = find_class(settings.target, class_names, classes)
        except ValueError as error:
            raise typer.BadParameter(f"--target: {error}") from error
        goals.append(Goal(replace(untargeted, steps=settings.steps), target))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"--out: cannot make the folder {out}: {error.strerror}") from error
    ball = "\N{INFINITY}" if math.isinf(norm) else f"{norm:g}"
    radius = f"\N{SCRIPT SMALL L}{ball}, \N{GREEK SMALL LETTER EPSILON} = {settings.eps}"
    return Experiment(model, shape, class_names, goals, eps, norm, radius, out, device, settings.batch_size)


def parse_eps(text: str, norm: float) -> float:
    """The radius that `text` means: a number or a fraction, such as "0.01", "2/255" or "0.5/255".

    Raises:
        typer.BadParameter: it is not one, not positive, or in linf as wide as the image's whole range.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        eps = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        eps = math.nan
    if not (eps > 0 and math.isfinite(eps)):
        raise typer.BadParameter(f"--eps: expected a positive number or fraction such as 2/255, got {text!r}")
    if math.isinf(norm) and eps >= 1:
        hint = "" if slash else f"; did you mean {text}/255?"
        raise typer.BadParameter(
            f"--eps: images lie in [0, 1], so a linf eps of {text} allows anything{hint}"
        )
    return eps


def parse_norm(text: str) -> float:
    """The p of the lp ball that `text` means: "inf", "2", or with a leading l, as in "linf".

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        norm = float(text.lower().removeprefix("l"))
    except ValueError:
        norm = math.nan
    if not norm > 0:
        raise typer.BadParameter(f"--norm: expected inf or a number such as 2, got {text!r}")
    return norm


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
