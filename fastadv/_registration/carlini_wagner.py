"""Fake kernel of the step of Carlini and Wagner's search."""

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._registration._common import Fakes


def _fake_cw_step(
    x_adv: Tensor,
    w: Tensor,
    m: Tensor,
    v: Tensor,
    x: Tensor,
    grad: Tensor,
    c: Tensor,
    weight: Tensor,
    lr: float,
    step: int,
    lower: float,
    upper: float,
    tau: Tensor | None = None,
    active: Tensor | None = None,
    best: Tensor | None = None,
    better: Tensor | None = None,
    stretch: float = 0.0,
) -> Tensor:
    _checks.finite_interval("cw_step_", (lower, upper))
    _checks.non_negative("cw_step_", "lr", lr)
    _checks.stretch("cw_step_", stretch)
    _checks.positive_count("cw_step_", "step", step)
    _checks.cw_state(x_adv, w, m, v, x, grad, (c, weight, tau), active, best, better)
    return x_adv.new_empty(x_adv.shape[:1], dtype=torch.float64)


FAKES: Fakes = {"cw_step_": _fake_cw_step}
CONSTANTS = ("cw_step_",)
