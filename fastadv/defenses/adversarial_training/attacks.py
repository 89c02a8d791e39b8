"""The attacks that nets are trained on, with the constants of those who proposed them."""

import math

import torch

from fastadv._checks import Bounds, norm_number
from fastadv.attacks import PGD
from fastadv.attacks.attack import check_counts
from fastadv.attacks.schedules import ConstantStep


def fast_fgsm(
    eps: float,
    *,
    norm: float = math.inf,
    step_size: float | None = None,
    bounds: Bounds = (0.0, 1.0),
    autocast: torch.dtype | None = None,
    seed: int | torch.Generator = 0,
) -> PGD:
    """FGSM from a random start: Wong, Rice, Kolter, "Fast is better than free" (ICLR 2020), algorithm 3.

    Steps that are much longer than theirs end in catastrophic overfitting: the net learns to answer this
    attack and no other. A validation with `PGD` tells.

    Args:
        eps: radius of the ball; for norm 0 a number of elements.
        norm: 0, or 1 <= norm <= inf. For norm 0, of which they say nothing, there is no random start.
        step_size: in the units of x; None is their 1.25 * eps, or for norm 0 that of `PGD`.
        bounds, autocast, seed: as in `PGD`; a generator as seed gives each batch random starts of its own.
    """
    start, step = _start_and_step(norm, ConstantStep(1.25))
    return PGD(
        eps=eps,
        norm=norm,
        steps=1,
        step_size=step if step_size is None else step_size,
        random_start=start,
        early_stop=False,
        keep="last",
        bounds=bounds,
        autocast=autocast,
        seed=seed,
    )


def madry_pgd(
    eps: float,
    *,
    norm: float = math.inf,
    steps: int = 10,
    step_size: float | None = None,
    bounds: Bounds = (0.0, 1.0),
    autocast: torch.dtype | None = None,
    seed: int | torch.Generator = 0,
) -> PGD:
    """PGD from a random start with equal steps, pushed to the end: Madry et al. (ICLR 2018).

    Their constants are `madry_pgd(8 / 255)` for CIFAR-10 (10 steps of 2 / 255; their paper has 7 steps) and
    `madry_pgd(0.3, steps=40, step_size=0.01)` for MNIST. As theirs it gives the last iterate.

    Args:
        eps: radius of the ball; for norm 0 a number of elements.
        norm: 0, or 1 <= norm <= inf. For norm 0, of which they say nothing, there is no random start.
        steps: gradient evaluations, at least 1.
        step_size: in the units of x; None is 2.5 * eps / steps, which crosses the ball, or for norm 0 that of
            `PGD`.
        bounds, autocast, seed: as in `PGD`; a generator as seed gives each batch random starts of its own.
    """
    check_counts("madry_pgd", steps=steps)
    start, step = _start_and_step(norm, ConstantStep(2.5 / steps))
    return PGD(
        eps=eps,
        norm=norm,
        steps=steps,
        step_size=step if step_size is None else step_size,
        random_start=start,
        early_stop=False,
        keep="last",
        bounds=bounds,
        autocast=autocast,
        seed=seed,
    )


def _start_and_step(norm: float, step: ConstantStep) -> tuple[bool | None, ConstantStep | None]:
    """Whether to start at random, and the step; for norm 0, where neither holds, what `PGD` itself does."""
    return (None, None) if norm_number(norm) == 0 else (True, step)
