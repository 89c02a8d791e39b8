"""The step of Carlini and Wagner's search for the smallest perturbation."""

import torch
from torch import Tensor

from fastadv import _checks, reference
from fastadv._library import is_native
from fastadv.ops._arguments import per_sample


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
    """One step of Adam on weight * distance - c * reward in tanh space, the new image and its distance.

    Carlini and Wagner, "Towards evaluating the robustness of neural networks" (IEEE S&P 2017), section V:
    x' = lower + (upper - lower) (tanh(w) + 1) / 2 is inside the box whatever w is. The distance is
    ||x' - x||_2^2, or with tau that of section VI-C: the sum of max(0, |x'_i - x_i| - tau). Adam is that of
    Kingma and Ba (ICLR 2015) with betas 0.9 and 0.999 and eps 1e-8. Overwrites x_adv, w, m and v.

    A stretch > 0 puts (1 + stretch) tanh(w / (1 + stretch)) in the place of tanh(w) and keeps |w| where that
    is at most 1. In the middle of the box the slope is the same; but where the published map never reaches a
    face and is flat next to it, this one does, with 1 - 1 / (1 + stretch)^2 of the slope in the middle.

    Args:
        x_adv: [B, ...] current images, those at which grad was taken.
        w: [B, ...] in the compute dtype (float32; float64 for float64): their place in tanh space.
        m: likewise, the running mean of gradients in w; 0 before the first step.
        v: likewise, that of their squares.
        x: [B, ...] where distances are measured from.
        grad: [B, ...] gradient of the reward, which is to be maximised, in the image. A NaN moves nothing.
        c: of the reward, >= 0; float or [B].
        lr: Adam's step size in the units of w, >= 0; 0 writes the image of w and its distance.
        step: number of this step of Adam, from 1.
        bounds: (lower, upper) of every element, both finite.
        weight: of the distance, >= 0; float or [B].
        tau: >= 0, in the units of x; float or [B].
        active: [B] bool; samples that are False keep the bits of all four.
        best: like x_adv; samples that are `better` leave x_adv there before they move.
        better: [B] bool.
        stretch: >= 0; 0 is the published map.

    Returns:
        [B] float64: the distance of each new image, without its weight.
    """
    _checks.samples("cw_step_", "x_adv", x_adv)
    lower, upper = _checks.finite_interval("cw_step_", bounds)
    _checks.non_negative("cw_step_", "lr", lr)
    _checks.stretch("cw_step_", stretch)
    _checks.positive_count("cw_step_", "step", step)
    for name, tensor in (("x_adv", x_adv), ("w", w), ("m", m), ("v", v)):
        if tensor.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"fastadv::cw_step_: {name} requires grad and cannot be overwritten: detach it"
            )
    c, weight = (per_sample("cw_step_", name, value, x) for name, value in (("c", c), ("weight", weight)))
    tau = None if tau is None else per_sample("cw_step_", "tau", tau, x)
    if is_native(x_adv):
        args = (
            x_adv,
            w,
            m,
            v,
            x,
            grad,
            c,
            weight,
            lr,
            step,
            lower,
            upper,
            tau,
            active,
            best,
            better,
            stretch,
        )
        distance = torch.ops.fastadv.cw_step_.default(*args)
        if not torch.compiler.is_compiling():
            torch.autograd.graph.increment_version((x_adv, w, m, v))
        return distance
    _checks.cw_state(x_adv, w, m, v, x, grad, (c, weight, tau), active, best, better)
    return reference.cw_step_(
        x_adv,
        w,
        m,
        v,
        x,
        grad,
        c=c,
        lr=lr,
        step=step,
        bounds=bounds,
        weight=weight,
        tau=tau,
        active=active,
        best=best,
        better=better,
        stretch=stretch,
    )
