"""What the benchmarks run on."""

import math

import torch
from torch import Tensor, nn

from fastadv.models import datasets

NORMS = {"inf": math.inf, "2": 2.0}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
IMAGES = (64, 3, 224, 224)
SMALL_IMAGES = (3136, 3, 32, 32)  # as many elements
EPS = {"inf": 8 / 255, "2": 3.0}
LP_EPS = {"1": 2000.0, "1.5": 150.0}


def images(dtype: str, device: str, shape: tuple[int, ...] = IMAGES) -> tuple[Tensor, Tensor, Tensor]:
    """(x_adv, x, grad) of an attack under way on images, about half of it at the limit."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator)
    x_adv = (x + 8 / 255 * torch.randn(shape, generator=generator).clamp(-1, 1)).clamp(0, 1)
    grad = torch.randn(shape, generator=generator)
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
    """The first `per_class` digits of each class in `datasets.digits`: x [10 * per_class, 1, 28, 28], y.

    They are training digits, most likely: good for comparing attacks, not for a model's accuracy.
    """
    x, y = (values.unflatten(0, (10, 500))[:, :per_class].flatten(0, 1) for values in datasets.digits())
    return x, y
