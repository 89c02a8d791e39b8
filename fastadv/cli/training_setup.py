"""What `fastadv train` means by its options: the model, the data, the attack, and the trainer of all."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import typer
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from fastadv.attacks import PGD
from fastadv.defenses import convert
from fastadv.defenses.adversarial_training import (
    AdversarialLoss,
    Epoch,
    Log,
    Trainer,
    Validation,
    fast_fgsm,
    madry_pgd,
    rise_and_fall,
)
from fastadv.models.registry import REGISTRY
from fastadv.models.text import brief

from .options import Net, load_net, parse_eps, parse_norm, parse_step_size
from .training_data import is_idx, load_data

Activation = Literal["own", "kwta"]
AttackName = Literal["none", "fgsm", "pgd"]
Autocast = Literal["off", "bf16"]
OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["constant", "triangle", "cosine", "step"]

LEARNING_RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05}


@dataclass(frozen=True)
class Recipe:
    """The options on which the weights depend, as they were given; `fastadv train --help` explains them."""

    data: str
    model: str | None
    pretrained: bool
    activation: Activation
    gamma: float
    attack: AttackName
    eps: str | None
    norm: str
    steps: int
    step_size: str | None
    mix: float
    epochs: int
    batch_size: int
    accumulate: int
    optimizer: OptimizerName
    lr: float | None
    weight_decay: float
    schedule: ScheduleName
    autocast: Autocast
    validation: int
    validation_steps: int
    patience: int | None
    seed: int

    def completed(self) -> "Recipe":
        """With what is meant where nothing was given.

        Raises:
            typer.BadParameter: nothing is meant, or the learning rate is none.
        """
        small = self.data in ("digits", "fashion-mnist") or is_idx(Path(self.data))
        if self.model is None and not small:
            raise typer.BadParameter(
                "--model: expected a model for images of your own: --data is neither digits nor fashion-mnist"
            )
        lr = LEARNING_RATES[self.optimizer] if self.lr is None else self.lr
        if not 0 < lr < math.inf:
            raise typer.BadParameter(f"--lr: expected a positive number, got {lr}")
        usual = "0.3" if self.data == "digits" else "0.1" if small else "8/255"
        return replace(self, model=self.model or "mnist_lenet5", eps=self.eps or usual, lr=lr)


class Training:
    """A recipe whose every option was checked, with its model and data.

    Raises:
        typer.BadParameter: an option makes no sense, or a model or data are not to be had.
    """

    def __init__(self, recipe: Recipe, workers: int) -> None:
        """Check everything that needs no other process; `workers` processes read image files."""
        self.recipe = recipe = recipe.completed()
        assert recipe.model is not None and recipe.eps is not None
        self.generator = torch.Generator().manual_seed(recipe.seed)
        precision = torch.bfloat16 if recipe.autocast == "bf16" else None
        norm = parse_norm(recipe.norm)
        eps = parse_eps(recipe.eps, norm)
        step_size = None if recipe.step_size is None else parse_step_size(recipe.step_size, eps, norm)
        try:
            self.check = PGD(
                eps=eps, norm=norm, steps=recipe.validation_steps, autocast=precision, seed=recipe.seed
            )
            common: dict[str, Any] = {
                "norm": norm,
                "step_size": step_size,
                "autocast": precision,
                "seed": self.generator,
            }
            attack = None
            if recipe.attack == "pgd":
                attack = madry_pgd(eps, steps=recipe.steps, **common)
            elif recipe.attack == "fgsm":
                attack = fast_fgsm(eps, **common)
            self.loss = AdversarialLoss(attack, mix=recipe.mix, autocast=precision)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        self.net = _net(recipe)
        self.data = load_data(
            recipe.data, self.net, recipe.validation, recipe.seed, recipe.batch_size, workers
        )

    def batches(self) -> Iterable[tuple[Tensor, ...]]:
        """The samples to train on."""
        return self.data.batches(self.generator)

    def trainer(
        self,
        device: torch.device,
        *,
        checkpoint: Path,
        checkpoint_every: int | None,
        log: Log | None,
        after_epoch: Callable[[Epoch], object],
    ) -> Trainer:
        """What trains the model on the device.

        Raises:
            typer.BadParameter: the model cannot be moved there.
        """
        recipe = self.recipe
        try:
            model = self.net.model.to(device)
        except Exception as error:
            raise typer.BadParameter(f"--model: cannot be moved to {device}: {brief(error)}") from error
        batches = math.ceil(self.data.count / recipe.batch_size)
        optimizer = _optimizer(recipe, model)
        return Trainer(
            model,
            self.loss,
            optimizer,
            schedule=_schedule(recipe, optimizer, recipe.epochs * math.ceil(batches / recipe.accumulate)),
            generator=self.generator,
            accumulate=recipe.accumulate,
            validation=Validation(self.data.validation(), self.check),
            patience=recipe.patience,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            settings=asdict(recipe) | {"samples": self.data.count},
            log=log,
            after_epoch=after_epoch,
        )


def _net(recipe: Recipe) -> Net:
    """The model with the weights to begin with, on the CPU.

    Raises:
        typer.BadParameter: it is not to be had, or has no ReLU to replace.
    """
    assert recipe.model is not None
    # A factory draws weights from the global generator, which is the user's.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = load_net(recipe.model, torch.device("cpu"))
        if recipe.model in REGISTRY and not recipe.pretrained:
            for module in net.model.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
    if not any(parameter.requires_grad for parameter in net.model.parameters()):
        raise typer.BadParameter("--model: it has no parameters to train")
    if recipe.activation == "kwta":
        try:
            convert(net.model, recipe.gamma, example=torch.full((1, *net.shape), 0.5))
        except ValueError as error:
            raise typer.BadParameter(f"--activation: {error}") from error
    return net


def _optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    assert recipe.lr is not None
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        # Nesterov's momentum, as in fastadv.defenses.train.
        return SGD(parameters, recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
    kind = Adam if recipe.optimizer == "adam" else AdamW
    return kind(parameters, recipe.lr, weight_decay=recipe.weight_decay)


def _schedule(recipe: Recipe, optimizer: Optimizer, updates: int) -> LRScheduler | None:
    match recipe.schedule:
        case "triangle":
            return rise_and_fall(optimizer, updates)
        case "cosine":
            return CosineAnnealingLR(optimizer, updates)
        case "step":
            return MultiStepLR(optimizer, [updates // 2, 3 * updates // 4], gamma=0.1)
        case "constant":
            return None
