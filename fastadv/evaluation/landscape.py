"""The loss around an input."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastadv._checks import is_integer, is_real
from fastadv.attacks import Autograd
from fastadv.attacks.attack import Model, forward, undisturbed
from fastadv.attacks.losses import cross_entropy

OnStep = Callable[[int, int], None]


def landscape(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    points: int = 25,
    seed: int = 0,
    *,
    chunk: int = 128,
    on_step: OnStep = lambda step, steps: None,
) -> Tensor:
    """The cross-entropy on a grid in [-eps, eps]^2 around each sample: x + s d1 + t d2.

    d1 is the sign of the gradient at x and d2 random signs, as in the figures of Xiao, Zhong and Zheng,
    "Enhancing adversarial defense by k-winners-take-all" (ICLR 2020). Points may lie outside the valid range
    of images. Two models are compared along the same d2, and each along its own d1.

    Args:
        model: [B, ...] -> logits [B, K]; attacked in eval mode and left as it was.
        x: [B, ...] samples.
        y: [B] int64 labels.
        eps: half the grid's width, in the units of x; positive and finite.
        points: points along each side, at least 2; the centre is x where it is odd.
        seed: of the random signs, which depend on it and on the sample's place in the batch only; the global
            generator is not used.
        chunk: how many points are evaluated together, at least 1.
        on_step: called with (points done, all points).

    Returns:
        [B, points, points] float64 on the CPU: the loss at (s_i, t_j), each from -eps to eps.

    Raises:
        ValueError: eps, points or chunk is out of range, the model's gradient vanishes at a sample, or does
            not reach x.
    """
    if not is_real(eps) or not 0 < float(eps) < math.inf:
        raise ValueError(f"landscape: eps must be positive and finite, got {eps!r}")
    for name, value, least in (("points", points, 2), ("chunk", chunk, 1)):
        if not is_integer(value) or value < least:
            raise ValueError(f"landscape: {name} must be an integer of at least {least}, got {value!r}")
    if len(y) != len(x):
        raise ValueError(f"landscape: y must have shape [{len(x)}], got {list(y.shape)}")
    run = forward("landscape", model, None)
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    ticks = torch.linspace(-eps, eps, points, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks).to(x)
    losses = torch.empty(len(x), len(grid), dtype=torch.float64)
    with undisturbed(model):
        _, _, gradient = Autograd()(run, x, lambda logits: cross_entropy(logits.double(), y, None))
        for i, (centre, steep, random) in enumerate(zip(x, gradient.sign(), signs.to(x), strict=True)):
            if not bool(steep.any()):
                raise ValueError(
                    f"landscape: the gradient at sample {i} is 0 everywhere: it has no direction"
                )
            for start in range(0, len(grid), chunk):
                s, t = grid[start : start + chunk].view(-1, 2, *[1] * centre.dim()).unbind(1)
                with torch.no_grad():
                    logits = run(centre + s * steep + t * random)
                values = cross_entropy(logits.double(), y[i].expand(len(logits)), None)
                losses[i, start : start + chunk] = values.cpu()
                on_step(i * len(grid) + start + len(values), losses.numel())
    return losses.view(len(x), points, points)


def roughness(losses: Tensor) -> Tensor:
    """How far a landscape is from a smooth surface: sum of |second differences| over sum of |first ones|.

    A plane has 0, a surface of independent normal noise about sqrt(3); that of a smooth function falls
    towards 0 as the grid gets finer.

    Args:
        losses: [..., P, P] with P >= 3.

    Returns:
        [...] in the losses' dtype; NaN where the surface is constant.
    """

    def total(order: int) -> Tensor:
        return sum(
            (losses.diff(order, dim).abs().sum((-2, -1)) for dim in (-2, -1)),
            start=losses.new_zeros(losses.shape[:-2]),
        )

    return total(2) / total(1)
