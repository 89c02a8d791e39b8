"""Accuracy on samples that are not trained on, as they are and under attack."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastadv.attacks.attack import undisturbed

from . import distributed
from .loss import MakeAdversarial, attacked

Batch = Sequence[Tensor]
"""(x [B, ...], y [B] int64), or (x, y, ids [B] int64)."""


class Accuracy(NamedTuple):
    """Of a model on some samples.

    Attributes:
        clean: the part that the model gets right.
        robust: the part that it gets right before and after the attack.
        samples: how many there are.
    """

    clean: float
    robust: float
    samples: int


class Validation:
    """Measures a model between passes.

    Args:
        loader: batches (x, y) or (x, y, ids), the same in each pass; under torchrun each process's part.
        attack: (model, x, y) -> x_adv, given `ids=` as well if it takes them. Give it a number as its seed,
            so that passes can be compared.
    """

    def __init__(self, loader: Iterable[Batch], attack: MakeAdversarial) -> None:
        """Keep both."""
        self.loader = loader
        self.attack = attack

    def __call__(self, model: nn.Module) -> Accuracy:
        """The accuracy of the model, in eval mode; it is left in the modes that it was in.

        Raises:
            TypeError, ValueError: the loader gives no batches or samples, or the attack no batch like x.
        """
        device = device_of(model)
        counts = torch.zeros(3, dtype=torch.int64, device=device)
        for batch in self.loader:
            x, y, ids = unpacked("Validation", batch, device)
            x_adv = attacked("Validation", self.attack, model, x, y, ids)
            with undisturbed(model), torch.no_grad():
                right, robust = (model(seen).argmax(1) == y for seen in (x, x_adv))
            counts += torch.stack(
                [right.sum(), (right & robust).sum(), right.new_tensor(len(x), dtype=torch.int64)]
            )
        right, robust, samples = distributed.all_sum(counts).tolist()
        if samples == 0:
            raise ValueError("Validation: loader must give samples, got none")
        return Accuracy(right / samples, robust / samples, samples)


def unpacked(name: str, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """A batch's (x, y, ids or None) on the device; raises TypeError, naming `name`, where it is none."""
    if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
        got = f"{len(batch)} parts" if isinstance(batch, list | tuple) else type(batch).__name__
        raise TypeError(f"{name}: loader must give batches (x, y) or (x, y, ids), got {got}")
    x, y, *ids = (part.to(device) for part in batch)
    return x, y, ids[0] if ids else None


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for a model that has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
