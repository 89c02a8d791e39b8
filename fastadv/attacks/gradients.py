"""Where an attack's gradients come from: the values of its `gradient` field."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Forward = Callable[[Tensor], Tensor]
Objective = Callable[[Tensor], Tensor]


class Gradient(Protocol):
    """Evaluates a model and the slope of an objective.

    Takes model (x [B, ...] -> logits [B, K] float), x, and objective (logits -> [B], to be maximised);
    returns (logits [B, K], objective values [B], gradient [B, ...] of each value with respect to its own
    sample), none of which requires grad.
    """

    def __call__(self, model: Forward, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, objective values and gradients at x."""
        ...


@dataclass(frozen=True)
class Autograd:
    """Exact gradients by backpropagation to the input; gradients of parameters are never computed."""

    def __call__(self, model: Forward, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, objective values and gradients at x; ValueError where no gradient reaches x."""
        x = x.detach().requires_grad_()
        logits = model(x)
        values = objective(logits)
        # The sum, not the mean: the gradient of a sample must not depend on how many others there are.
        gradient = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), x, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "model: no gradient reaches x; its output is detached or a layer is not differentiable"
            )
        return logits.detach(), values.detach(), gradient
