"""The two LeNet5 digit classifiers that advertorch 0.2.3 carries: one trained as usual, one adversarially."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._packages import package_file
from .classifier import Classifier

WEIGHTS = {
    "standard": "mnist_lenet5_clntrained.pt",
    "adversarial": "mnist_lenet5_advtrained.pt",
}


class LeNet5(nn.Module):
    """Two convolutions and two linear layers."""

    def __init__(self) -> None:
        """With random weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(64 * 7 * 7, 200)
        self.linear2 = nn.Linear(200, 10)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Digits [B, 1, 28, 28] in [0, 1] -> logits [B, 10]."""
        x = F.max_pool2d(self.relu(self.conv1(x)), 2)
        x = F.max_pool2d(self.relu(self.conv2(x)), 2)
        logits: Tensor = self.linear2(self.relu(self.linear1(x.flatten(1))))
        return logits


def mnist_lenet5(trained: Literal["standard", "adversarial"] = "standard") -> Classifier:
    """LeNet5 on MNIST, trained as usual or adversarially (PGD-40, linf, eps 0.3), in eval mode.

    Takes digits [B, 1, 28, 28] in [0, 1], white on black; returns logits [B, 10]. The weights come from
    the installed package advertorch, of which only the weights file is read.

    Raises:
        ModelError: that package is not installed.
        ValueError: `trained` is neither of the two.
    """
    if trained not in WEIGHTS:
        raise ValueError(f"mnist_lenet5: trained must be one of {', '.join(WEIGHTS)}, got {trained!r}")
    weights = package_file("advertorch", WEIGHTS[trained])
    network = LeNet5()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    digits = [str(digit) for digit in range(10)]
    return Classifier(network, input_shape=(1, 28, 28), class_names=digits).eval()
