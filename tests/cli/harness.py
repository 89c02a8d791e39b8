"""What the tests of the commands share: linear models on 8x8 images, and how a command is run."""

import json

from typer.testing import CliRunner

from fastadv.cli import app

# Linear models on 8x8 images: quick, and how far an attack can get is known.
MODELS = """
import os, signal
import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self, channels=3, class_names=("cat", "dog $x$", "[red]owl")):
        super().__init__()
        self.input_shape = (channels, 8, 8)
        self.class_names = class_names
        self.calls = 0
        weight = torch.randn(3, channels * 64, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight - weight.mean(1, keepdim=True))

    def forward(self, x):
        return 4 * (x - 0.5).flatten(1) @ self.weight.T

class Interrupted(Linear):
    def forward(self, x):
        self.calls += 1
        if self.calls > 20:
            raise KeyboardInterrupt
        return super().forward(x)

class Killed(Linear):
    def forward(self, x):
        self.calls += 1
        if os.environ.get("KILL") == f"{type(self).__name__} {self.calls}":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

def grey():
    return Linear(channels=1)

def nameless():
    return Linear(class_names=())

def too_few_names():
    return Linear(class_names=("cat",))

class NoGradient(Linear):
    def forward(self, x):
        return super().forward(x.detach())

class Vector(Linear):
    def forward(self, x):
        return super().forward(x)[:, 0]

class NotFinite(Linear):
    def forward(self, x):
        return super().forward(x) / 0

class WrongType(Linear):
    def forward(self, x):
        raise TypeError("first\\nsecond")

class Assertion(Linear):
    def forward(self, x):
        assert False

class OneClass(Linear):
    def forward(self, x):
        return super().forward(x)[:, :1]

class OnlyAlone(Linear):
    def forward(self, x):
        assert len(x) == 1, "one by one"
        return super().forward(x)

class FailsLater(Linear):
    def forward(self, x):
        self.calls += 1
        if self.calls > 20:
            raise KeyError("later")
        return super().forward(x)

def shaped(shape):
    model = Linear()
    model.input_shape = shape
    return model

def four_channels():
    return shaped((4, 8, 8))

def no_height():
    return shaped((3, 0, 8))

def flat():
    return shaped(192)

def fraction():
    return shaped((3, 8.0, 8))

def one_string():
    return Linear(class_names="abc")

def names_by_label():
    return Linear(class_names={0: "a", 1: "b", 2: "c"})

def numbers():
    return Linear(class_names=(1, 2, 3))

def markup():
    return Linear(class_names=("[/b]dog", "[bold", "a\\nb"))
"""


def fastadv_attack(*arguments):
    return CliRunner().invoke(app, ["attack", *map(str, arguments)])


def results_in(folder):
    return json.loads((folder / "results.json").read_text())
