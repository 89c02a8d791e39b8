"""What the tests of `fastadv train` share: nets, and images to train on."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fastadv.cli import app

NETS = """
import os, signal
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, shape=(3, 8, 8), classes=3):
        super().__init__()
        self.input_shape = shape
        size = shape[0] * shape[1] * shape[2]
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, x):
        return self.layers(x - 0.5)

class Interrupted(Net):
    calls = 0

    def forward(self, x):
        Interrupted.calls += self.training
        if Interrupted.calls == int(os.environ.get("INTERRUPT", -1)):
            raise KeyboardInterrupt
        return super().forward(x)

class Killed(Net):
    calls = 0

    def forward(self, x):
        Killed.calls += self.training
        if Killed.calls == 3 and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

class Failing(Net):
    def forward(self, x):
        if self.training:
            raise KeyError("later")
        return super().forward(x)

class Functional(Net):
    def forward(self, x):
        return super().forward(x.relu())

def digits():
    return Net((1, 28, 28), 10)

def four():
    return Net(classes=4)

def named(*names):
    model = Net()
    model.class_names = names
    return model

def same_order():
    return named("blue", "green", "red")

def other_order():
    return named("blue", "red", "green")

def other_names():
    return named("blue", "verde", "rosso")

def empty():
    class Constant(nn.Module):
        input_shape = (3, 8, 8)
        def forward(self, x):
            return torch.tensor([[0.0, 1.0, 2.0]]).repeat(len(x), 1)
    return Constant()
"""


@pytest.fixture
def nets(tmp_path_factory):
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture
def folder(tmp_path_factory):
    """Three classes of seven images each, which differ in one channel."""
    root = tmp_path_factory.mktemp("images")
    for label, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir()
        for number in range(7):
            levels = np.random.default_rng([label, number]).integers(60, 120, (8, 8, 3), dtype=np.uint8)
            levels[..., 2 - label] += 100
            Image.fromarray(levels).save(root / name / f"{number}.png")
    return root


SMALL = ("--batch-size", 5, "--validation", 5, "--validation-steps", 2, "--steps", 2, "--eps", "4/255")
"""16 samples to train on: batches of 5, 5, 5 and 1."""


def train(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])
