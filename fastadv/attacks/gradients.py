"""Where an attack's gradients come from: the values of its `gradient` field."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastadv.attacks.randomness import Step

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
        return logits.detach(), values.detach(), backpropagated(values, x)


class Estimator(ABC):
    """Estimates slopes at x from evaluations elsewhere: of copies of x that were moved or transformed.

    The attack itself evaluates the model on x, judges success and the best iterate by what it finds there,
    and asks for a slope only for the samples that go on.
    """

    @abstractmethod
    def estimate(self, model: Forward, x: Tensor, objective: Objective, step: Step) -> Tensor:
        """The estimated gradient [B, ...] of the objective at x [B, ...], in any floating-point dtype.

        Args:
            model: [n * B, ...] -> logits [n * B, K] float. The rows are n copies of the batch, one after the
                other; every row counts as a query of its sample.
            x: [B, ...]; not to be changed in place.
            objective: logits [n * B, K] of n copies of the batch -> [n * B], to be maximised.
            step: which step of the attack this is, and the source of its random numbers.
        """

    def judge(
        self, model: Forward, x: Tensor, logits: Tensor, values: Tensor, step: Step
    ) -> tuple[Tensor, Tensor | None]:
        """What the attack's evaluation of x is worth, where more is asked of x than its own logits tell.

        Called without gradients after every evaluation of x. The default takes it for what it is.

        Args:
            model, x, step: as in `estimate`; after the last step its number is `steps`.
            logits: [B, K] float, the model's for x.
            values: [B], the objective of these.

        Returns:
            The values [B] by which iterates are compared, and which samples would be a success if the
            model's answer is one: [B] bool, or None for all.
        """
        return values, None


def backpropagated(values: Tensor, x: Tensor) -> Tensor:
    """The gradient of the sum of `values` with respect to x; ValueError where there is none.

    The sum, not the mean: the gradient of a sample must not depend on how many others there are.
    """
    gradient = None
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.sum(), x, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "model: no gradient reaches x; its output is detached or a layer is not differentiable"
        )
    return gradient


def add_in_order(total: Tensor, terms: Tensor) -> None:
    """Add terms [n, *total.shape] to `total` in place, one after the other.

    The order in which torch sums over a dimension depends on the size of the others. This does not: the
    bits of a sample's sum are the same in any batch, and however the terms are cut into chunks.
    """
    for term in terms:
        total += term


def chunks(draws: int, chunk: int | None) -> list[range]:
    """0 .. draws - 1 in ranges of at most `chunk`; None is one range."""
    size = chunk or draws
    return [range(first, min(first + size, draws)) for first in range(0, draws, size)]
