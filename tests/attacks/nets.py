"""Small models for attacks: one whose bits do not depend on the batch, and ones that watch or misbehave."""

import torch
from torch import Tensor, nn


class BatchInvariant(nn.Module):
    """Two layers of elementwise products and sums over one sample: the same bits in any batch."""

    def __init__(self, features: int, classes: int = 5, hidden: int = 7, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(hidden, features, generator=generator) / features**0.5)
        self.second = nn.Parameter(torch.randn(classes, hidden, generator=generator) * 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = (x.flatten(1)[:, None] * self.first.to(x.dtype)).sum(-1).tanh()
        return (hidden[:, None] * self.second.to(x.dtype)).sum(-1)


class Recorder(nn.Module):
    """Keeps a copy of every input that the model was evaluated on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.detach().clone())
        return self.model(x)


class Norms(nn.Module):
    """A convolutional net with everything that a careless attack disturbs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


def samples(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Uniform samples in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
