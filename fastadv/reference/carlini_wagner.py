"""The step of Carlini and Wagner's search for the smallest perturbation."""

import math

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._checks import compute_dtype
from fastadv.reference._samples import lengths, over_samples

BETAS, ADAM_EPS = (0.9, 0.999), 1e-8
LARGEST_GRADIENT = 2.0**60  # whose square float32 still holds
BEYOND = 1 + 1e-4  # w may pass the faces of the box by this, so that rounding cannot keep x' from them


@torch.no_grad()
def cw_step_(
    x_adv: Tensor,
    w: Tensor,
    m: Tensor,
    v: Tensor,
    x: Tensor,
    grad: Tensor,
    *,
    c: float | Tensor,
    lr: float,
    step: int,
    bounds: tuple[float, float] = (0.0, 1.0),
    weight: float | Tensor = 1.0,
    tau: float | Tensor | None = None,
    active: Tensor | None = None,
    best: Tensor | None = None,
    better: Tensor | None = None,
    stretch: float = 0.0,
) -> Tensor:
    """One step of Adam in tanh space, in place; see `fastadv.ops.cw_step_`."""
    lower, upper = _checks.interval("cw_step_", bounds)
    dtype = compute_dtype(x.dtype)
    centre = x.to(dtype)
    tau = None if tau is None else lengths(tau, x)
    if best is not None and better is not None:
        best.copy_(torch.where(over_samples(better, x), x_adv, best))
    delta = x_adv.to(dtype) - centre
    pull = 2 * delta if tau is None else torch.where(delta.abs() > tau, delta.sign(), 0)
    twice = 2 / (1 + stretch)
    slope = (
        2 * (upper - lower) * torch.sigmoid(twice * w) * torch.sigmoid(-twice * w)
    )  # dx'/dw: 1 - s would cancel
    g = (lengths(weight, x) * pull - lengths(c, x) * grad.to(dtype)) * slope
    g = g.clamp(-LARGEST_GRADIENT, LARGEST_GRADIENT)
    next_m = BETAS[0] * m + (1 - BETAS[0]) * g
    next_v = BETAS[1] * v + (1 - BETAS[1]) * g.square()
    size = lr / (1 - BETAS[0] ** step)
    next_w = w - size * next_m / (next_v.sqrt() / math.sqrt(1 - BETAS[1] ** step) + ADAM_EPS)
    if stretch > 0:
        limit = BEYOND * (1 + stretch) * math.atanh(1 / (1 + stretch))
        next_w = next_w.clamp(-limit, limit)
    moves = ~g.isnan()
    if active is not None:
        moves = moves & over_samples(active, x)
    for state, following in ((w, next_w), (m, next_m), (v, next_v)):
        state.copy_(torch.where(moves, following, state))
    s = torch.sigmoid(twice * w)
    image = (lower + (upper - lower) * (s + stretch * (s - 0.5))).clamp(lower, upper).to(x.dtype)
    x_adv.copy_(image if active is None else torch.where(over_samples(active, x), image, x_adv))
    delta = (x_adv.to(dtype) - centre).double()
    terms = delta.square() if tau is None else (delta.abs() - tau).clamp(min=0)
    return terms.flatten(1).sum(1)
