"""What robust training does to a linear classifier's boundary, in the plane."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastadv.defenses.linear import certify
from fastadv.defenses.linear_training import fit_lbfgs

STRENGTH = (0.6, 0.12)
SPREAD = (0.4, 0.04)


class Classifier(NamedTuple):
    """One classifier, and how far it can be trusted.

    Attributes:
        w, b: [2] and [] float64.
        radii: [N] float64, each sample's distance to the boundary in the norm of the study; 0 for mistakes.
    """

    w: Tensor
    b: Tensor
    radii: Tensor


class Boundaries(NamedTuple):
    """Samples, and the classifiers trained on them.

    Attributes:
        x: [N, 2] float64 samples.
        y: [N] int64, -1 and +1.
        eps: radius of the ball.
        norm: its p.
        classifiers: by training, "natural" and "robust".
    """

    x: Tensor
    y: Tensor
    eps: float
    norm: float
    classifiers: dict[str, Classifier]


def boundaries(eps: float = 0.3, norm: float = math.inf, *, samples: int = 60, seed: int = 0) -> Boundaries:
    """Train a linear classifier naturally and robustly on two features, of which one cannot be trusted.

    Both are the label plus normal noise: the first large and noisy (0.6 y, deviation 0.4), the second small
    and clean (0.12 y, 0.04), and the more telling one, until an attack of more than 0.12 turns it over.
    Tsipras et al., "Robustness may be at odds with accuracy" (ICLR 2019), have the same in many dimensions.

    Args:
        eps: radius of the ball, >= 0.
        norm: its p, in [1, inf].
        samples: how many, at least 2; half of each class.
        seed: of the noise; the global generator is not used.

    Raises:
        ValueError: a number is out of range.
    """
    if samples < 2:
        raise ValueError(f"boundaries: samples must be at least 2, got {samples}")
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(samples) % 2 * 2 - 1
    noise = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
    x = y[:, None] * noise.new_tensor(STRENGTH) + noise * noise.new_tensor(SPREAD)
    classifiers = {}
    for name, defended in (("natural", 0.0), ("robust", eps)):
        w, b = fit_lbfgs(x, y, eps=defended, norm=norm)
        classifiers[name] = Classifier(w, b, certify(w, b, x, y, norm))
    return Boundaries(x, y, eps, norm, classifiers)
