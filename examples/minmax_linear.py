"""The certified case of examples/minmax.py: 0 against 1 among digits, trained naturally and robustly.

Chapter 2 of Kolter and Madry's tutorial has the same with MNIST's 12,665 training and 2,115 test images; its
figures, from a re-run of its notebook, stand beside those of the 1,000 digits at hand. Every error is
judged by a classifier that has not seen the digit (five-fold cross-validation).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fastadv.defenses.linear import certify
from fastadv.defenses.linear_training import fit_lbfgs, fit_sgd
from fastadv.evaluation.robustness import markdown
from fastadv.evaluation.statistics import Rate
from fastadv.models.datasets import Images

BOX = (0.0, 1.0)

Fit = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Training:
    """One way to train, and the errors that the tutorial has for it.

    Attributes:
        name: in the table.
        fit: (x, y) -> (w, b).
        clean, worst: the tutorial's test errors, None where it has no such training.
    """

    name: str
    fit: Fit
    clean: float | None = None
    worst: float | None = None


@dataclass(frozen=True)
class Errors:
    """What cross-validation found for one training, over all digits.

    Attributes:
        training: which.
        clean: digits that are misclassified.
        worst: digits that a perturbation within eps makes, or leaves, misclassified: exact.
        boxed: the same where the perturbed digit must stay in [0, 1]: exact.
        radius: the median distance to the boundary, 0 for misclassified digits.
    """

    training: Training
    clean: Rate
    worst: Rate
    boxed: Rate
    radius: float


def trainings(eps: float) -> list[Training]:
    """The tutorial's two, with as many updates as it makes on its larger training set, and the minima.

    On 800 digits 159 and 318 epochs of batches of 100 are as many updates as 10 and 20 on 12,665.
    """
    sgd = partial(fit_sgd, batch_size=100)
    natural = partial(sgd, eps=0.0, epochs=159, learning_rate=1.0)
    robust = partial(sgd, eps=eps, epochs=318, learning_rate=0.1)
    return [
        Training("natural, SGD as in the tutorial", natural, clean=0.000473, worst=0.840),
        Training("robust, SGD as in the tutorial", robust, clean=0.003783, worst=0.0236),
        Training("natural, L-BFGS", partial(fit_lbfgs, eps=0.0)),
        Training("robust, L-BFGS", partial(fit_lbfgs, eps=eps)),
    ]


def zero_against_one(images: Images) -> tuple[Tensor, Tensor]:
    """The zeros and ones among the images: x [N, 784] float64, y [N] -1 for 0 and +1 for 1."""
    kept = images.y <= 1
    return images.x[kept].flatten(1).double(), 2 * images.y[kept] - 1


def measure(x: Tensor, y: Tensor, training: Training, eps: float, *, folds: int = 5, seed: int = 0) -> Errors:
    """The errors of a training within the linf ball of radius eps, by cross-validation."""
    free = torch.empty(len(x), dtype=torch.float64)
    boxed = torch.empty_like(free)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for held_out in order.chunk(folds):
        rest = order[~torch.isin(order, held_out)]
        w, b = training.fit(x[rest], y[rest])
        judged = x[held_out], y[held_out]
        free[held_out] = certify(w, b, *judged, math.inf)
        boxed[held_out] = certify(w, b, *judged, math.inf, bounds=BOX)
    clean, worst, in_box = (
        Rate(int((radii <= limit).sum()), len(x)) for radii, limit in ((free, 0), (free, eps), (boxed, eps))
    )
    return Errors(training, clean, worst, in_box, free.median().item())


def table(results: Sequence[Errors], eps: float) -> str:
    """In Markdown: errors with Wilson's 95% intervals, each beside the tutorial's."""
    header = [
        "training",
        "clean error",
        "tutorial",
        f"worst case, linf {eps:g}",
        "tutorial",
        "worst case in [0, 1]",
        "median radius",
    ]
    rows = [
        [
            errors.training.name,
            _percent(errors.clean),
            _tutorial(errors.training.clean),
            _percent(errors.worst),
            _tutorial(errors.training.worst),
            _percent(errors.boxed),
            f"{errors.radius:.3f}",
        ]
        for errors in results
    ]
    return markdown([header, *rows])


def _percent(rate: Rate) -> str:
    low, high = rate.interval()
    return f"{100 * rate.value:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def _tutorial(error: float | None) -> str:
    return "" if error is None else f"{100 * error:.2f}%"
