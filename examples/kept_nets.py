"""Nets that a study trains: weights drawn by a seed, kept in a file, and put back from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)

_drawing = Lock()


@contextmanager
def drawn(seed: int) -> Iterator[None]:
    """A net that is made inside has the random weights of this seed, and nobody else's numbers change."""
    # The global generator, from which weights are drawn, belongs to all threads.
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def keep(model: nn.Module, path: Path) -> None:
    """Write the weights to a file, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    torch.save(model.state_dict(), path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def restore(model: Net, path: Path) -> Net:
    """The model with the weights of the file, in eval mode."""
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def predict(model: nn.Module, x: Tensor, rows: int) -> Tensor:
    """[B] int64 classes; so many images go through the model at a time."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(rows)])
