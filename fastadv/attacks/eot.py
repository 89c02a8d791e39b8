"""Expectation over transformation: the survey's section 10."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fastadv._checks import compute_dtype, is_integer
from fastadv.attacks.attack import refuse_class
from fastadv.attacks.gradients import Estimator, Forward, Objective, add_in_order, backpropagated, chunks
from fastadv.attacks.randomness import Randomness, Step


@dataclass(frozen=True)
class EOT(Estimator):
    """Gradients of an expectation over random transforms of the input, or over the model's own randomness.

    Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples" (ICML 2018); the survey's
    section 10: the mean of the gradients of `draws` random evaluations, all in one batched forward. Use

    - `EOT(transforms.Noise(scale), draws)` and the like against a deterministic model whose loss is rugged
      (k-WTA), or to find samples that survive a transform;
    - `EOT(None, draws)` against a model that is random inside: each of the copies of x gets numbers of its
      own from the model, drawn from whatever generator the model uses.

    Success and the best iterate are judged on the model's answer for x itself, never for a copy. A model
    that is random inside answers anew each time, so with `early_stop` a lucky draw ends the attack: judge
    such a model by repeated evaluations of x_adv, or attack its mean, as in
    `lambda x: torch.stack([model(x) for _ in range(10)]).mean(0)`.

    Args:
        transform: the random transform; None is the identity. A callable with two required arguments gets
            (x, randomness), x [n * B, ...] being n copies of the batch, and draws its numbers from the
            `Randomness`; then a draw depends on the seed, the sample's id, the step and the draw alone. A
            callable with one gets x, and its random numbers are its own business. The result must have n * B
            rows and be differentiable in x; its shape may be another. See `fastadv.attacks.transforms`.
        draws: per step, >= 1.
        average: "loss" is the mean of the loss over draws (the published attack), "logits" the loss of the
            mean logits. They differ by Jensen's inequality, most where draws disagree.
        chunk: at most so many draws in one forward; None is all. It changes no result, bit for bit, if it
            changes no bits of the model's and the model is not random. With "logits" and more than one chunk
            the mean logits are computed first, without gradients: `draws` queries more per step.
        clean: average over the draws and x itself, which counts as one draw more.

    Raises:
        TypeError: transform is not callable, or a class.
        ValueError: a field is out of range.
    """

    transform: Callable[..., Tensor] | None
    draws: int
    average: Literal["loss", "logits"] = "loss"
    chunk: int | None = None
    clean: bool = False

    def __post_init__(self) -> None:
        """Refuse fields out of range."""
        refuse_class("EOT", "transform", self.transform)
        if self.transform is not None and not callable(self.transform):
            raise TypeError(f"EOT: transform must be a callable or None, got {self.transform!r}")
        if not is_integer(self.draws) or self.draws < 1:
            raise ValueError(f"EOT: draws must be an integer of at least 1, got {self.draws!r}")
        if self.average not in ("loss", "logits"):
            raise ValueError(f"EOT: average must be 'loss' or 'logits', got {self.average!r}")
        if self.chunk is not None and (not is_integer(self.chunk) or self.chunk < 1):
            raise ValueError(f"EOT: chunk must be an integer of at least 1 or None, got {self.chunk!r}")

    def estimate(self, model: Forward, x: Tensor, objective: Objective, step: Step) -> Tensor:
        """The gradient [B, ...] at x in the compute dtype; ValueError where none reaches x."""
        parts = chunks(self.draws, self.chunk)
        if self.clean:
            parts.append(range(self.draws, self.draws + 1))
        slope = None
        if self.average == "logits" and len(parts) > 1:
            with torch.no_grad():
                answers = [self._logits(model, _copies(x, part), len(x), step, part) for part in parts]
            slope = _slope(objective, torch.cat(answers))
        total = torch.zeros_like(x, dtype=compute_dtype(x.dtype))
        for part in parts:
            copies = _copies(x, part).requires_grad_()
            logits = self._logits(model, copies, len(x), step, part)
            if self.average == "loss":
                values = objective(logits.flatten(0, 1))
            else:
                # The gradient of L(mean of z_d) is that of the sum over d of <L'(mean), z_d>, over draws.
                slope = _slope(objective, logits) if slope is None else slope
                values = logits * slope
            gradient = backpropagated(values, copies)
            add_in_order(total, gradient.unflatten(0, (len(part), len(x))))
        return total.div_(self.draws + self.clean)

    def _logits(self, model: Forward, copies: Tensor, samples: int, step: Step, part: range) -> Tensor:
        """[n, B, K]: the model's answers for n transformed copies of each sample."""
        transformed = copies
        if self.transform is not None and part.start < self.draws:  # the one after all draws is x itself
            with_randomness = _required_arguments(self.transform) == 2
            arguments: tuple[Randomness, ...] = (step.randomness(part),) if with_randomness else ()
            transformed = self.transform(copies, *arguments)
        if not isinstance(transformed, Tensor) or transformed.shape[:1] != copies.shape[:1]:
            got = list(transformed.shape) if isinstance(transformed, Tensor) else type(transformed).__name__
            raise ValueError(f"EOT: transform must return a tensor [{len(copies)}, ...], got {got}")
        return model(transformed).unflatten(0, (len(part), samples))


def _copies(x: Tensor, part: range) -> Tensor:
    """As many copies of the batch as there are draws, one after the other, in its memory format."""
    return torch.cat([x] * len(part))


def _slope(objective: Objective, logits: Tensor) -> Tensor:
    """The derivative [B, K] of the objective at the mean of logits [draws, B, K]."""
    mean = torch.zeros_like(logits[0])
    add_in_order(mean, logits.detach())
    mean.div_(len(logits)).requires_grad_()
    return backpropagated(objective(mean), mean)


def _required_arguments(function: Callable[..., Tensor]) -> int:
    """How many positional arguments a callable insists on; 1 where it does not say."""
    try:
        parameters = inspect.signature(
            function.forward if isinstance(function, nn.Module) else function
        ).parameters.values()
    except ValueError:  # a builtin without a signature
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
