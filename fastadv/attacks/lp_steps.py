"""Along what PGD steps in lp balls."""

import math

import torch
from torch import Tensor

from fastadv.reference import lp_norm


def gradient_length(norm: float, step: int, steps: int, *, keeps_best: bool) -> float:
    """How many step sizes PGD goes along grad / ||grad|| in this step; 0: along the steepest direction.

    A steepest step and a Euclidean projection come to rest where the ball's normal |u|^(p-1) is the steepest
    direction |grad|^(q-1), and that is where a linear loss is highest for 1, 2 and inf alone. Along the
    gradient itself they do for every norm. Long steps serve best, the longer the sharper the ball's corners
    are (docs/design.md has the measurements); above 2 steepest steps find better basins, and steps along the
    gradient only finish them. The first step is always steepest, so that FGSM is one step of PGD.

    In norms 1 and 0 the last twelfth of the steps is long: only then do elements change places that have
    got theirs by an earlier step. Such steps, and those of the last sixth below 2, land where the loss would
    be highest if it were linear: candidates for the best iterate, and none where the last is kept.
    """
    if norm in (2, math.inf) or step == 0:
        return 0.0
    if norm > 2:
        return 32.0 if 3 * step >= 2 * steps else 0.0
    if norm > 1:
        return 64 / (norm - 1) if keeps_best and 6 * step >= 5 * steps else 16.0
    if not keeps_best or step < steps - steps // 12:
        return 0.0
    return 256.0 if norm == 1 else 1e5


def of_unit_length(grad: Tensor, norm: float) -> Tensor:
    """grad / ||grad||_p for each sample, in norm 0 of l2 length; 0 where the length is 0 or not finite."""
    length = lp_norm(grad, norm or 2)
    usable = length.isfinite() & (length > 0)
    return torch.where(usable, grad / torch.where(usable, length, 1), 0).to(grad.dtype)
