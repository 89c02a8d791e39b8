"""The fast gradient sign method: the survey's section 5."""

from dataclasses import dataclass, field

from torch import Tensor

from fastadv import ops
from fastadv.attacks.pgd import PGD
from fastadv.attacks.schedules import ConstantStep, Schedule


@dataclass(frozen=True, kw_only=True)
class FGSM(PGD):
    """One step of length eps along the steepest direction: x + eps * sign(grad) for norm inf.

    Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples" (ICLR 2015), section 4; for
    other norms the same with `fastadv.ops.steepest`, which for norm 1 changes one element, or as many as the
    box makes necessary, and for norm 0 the `eps` elements that gain most. Exact for a linear model. The
    survey's section 5 prints an iteration of this step without projection; here it is one step
    (docs/survey.md). It is `PGD` with one step from x; the other fields are PGD's.
    """

    steps: int = field(default=1, init=False, repr=False)
    step_size: float | Tensor | Schedule | None = field(default=ConstantStep(1.0), init=False, repr=False)
    rule: ops.Rule = field(default="steepest", init=False, repr=False)
    spread: float | Schedule | None = field(default=0.0, init=False, repr=False)
    random_start: bool | None = field(default=False, init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)
