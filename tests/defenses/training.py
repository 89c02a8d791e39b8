"""A small training with everything that a checkpoint must keep, also run as a script that is killed."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastadv import PGD
from fastadv.defenses.adversarial_training import (
    AdversarialLoss,
    Log,
    TensorBatches,
    Trainer,
    Validation,
    fast_fgsm,
    rise_and_fall,
)

EPOCHS = 3
BATCHES = 6


def data():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (57,), generator=generator)
    x = (0.25 * (y[:, None] + 1) + 0.2 * torch.randn(57, 5, generator=generator)).clamp(0, 1)
    return x, y


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def trainer(model, folder=None, *, attack=True, **settings):
    """A trainer, its loader and its attack, with one generator behind all three."""
    generator = torch.Generator().manual_seed(1)
    loss = AdversarialLoss(fast_fgsm(0.05, seed=generator) if attack else None)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    if folder is not None:
        files = {"checkpoint": folder / "checkpoint.pt", "checkpoint_every": 4, "log": Log(folder)}
        settings = files | settings
    defaults = {
        "schedule": rise_and_fall(optimizer, EPOCHS * BATCHES),
        "generator": generator,
        "quiet": True,
        "validation": Validation(TensorBatches(*data(), 30), PGD(eps=0.05, steps=2)),
    }
    return Trainer(model, loss, optimizer, **defaults | settings)


def loader(kind, generator):
    if kind == "tensors":
        return TensorBatches(*data(), 10, generator)
    return DataLoader(TensorDataset(*data()), 10, shuffle=True, generator=generator)


def run(folder, kind, **settings):
    """The weights that a training ends with, resumed where one was before."""
    model = net()
    made = trainer(model, folder, **settings)
    made.resume()
    made.fit(loader(kind, made.generator), EPOCHS)
    return model.state_dict()


def die(at):
    """What ends the process, as SIGKILL does, after so many updates."""
    return lambda update: os.kill(os.getpid(), signal.SIGKILL) if update == at else None


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), sys.argv[2], after_update=die(int(sys.argv[3])))
