"""The fast gradient sign method: the survey's section 5."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv._checks import Bounds
from fastadv.attacks.attack import AttackResult, Model, OnStep
from fastadv.attacks.gradients import Autograd, Gradient
from fastadv.attacks.losses import Loss
from fastadv.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True)
class FGSM:
    """One step of length eps along the steepest direction: x + eps * sign(grad) for norm inf.

    Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples" (ICLR 2015), section 4;
    for norm 2 the same with grad / ||grad||. Exact for a linear model. The survey's section 5 prints
    an iteration of this step without projection; here it is one step (docs/survey.md). Fields are those of
    `PGD`.
    """

    eps: float | Tensor
    norm: float = math.inf
    loss: str | Loss = "ce"
    gradient: Gradient = Autograd()
    bounds: Bounds = (0.0, 1.0)
    early_stop: bool = True
    autocast: torch.dtype | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        """Refuse fields out of range."""
        self._as_pgd()

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        target: Tensor | int | None = None,
        ids: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """The adversarial samples alone; see `PGD.run`."""
        return self.run(model, x, y, target=target, ids=ids, on_step=on_step).x_adv

    def run(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        target: Tensor | int | None = None,
        ids: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> AttackResult:
        """Attack a batch; arguments, result and errors are those of `PGD.run`."""
        return self._as_pgd().run(model, x, y, target=target, ids=ids, on_step=on_step)

    def _as_pgd(self) -> PGD:
        return PGD(
            eps=self.eps,
            norm=self.norm,
            steps=1,
            step_size=self.eps,
            loss=self.loss,
            gradient=self.gradient,
            random_start=False,
            bounds=self.bounds,
            early_stop=self.early_stop,
            autocast=self.autocast,
            chunk=self.chunk,
        )
