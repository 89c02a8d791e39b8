"""What attacks maximise: one value per sample, larger the closer the attack is to its goal.

A loss is a name or a callable `loss(logits, y, target) -> [B]` with logits [B, K] float, y [B] int64 the true
labels and target [B] int64 or None; it must be differentiable in the logits. A `SampleLoss` is told, besides,
which samples these are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """CE(logits, y); targeted: -CE(logits, target). The survey's section 1."""
    if target is None:
        return F.cross_entropy(logits, y, reduction="none")
    return -F.cross_entropy(logits, target, reduction="none")


def margin(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """max over i != y of z_i, minus z_y; targeted: z_target - max over i != target of z_i.

    Positive iff the attack succeeds. Does not saturate with the softmax as the cross-entropy does
    (Carlini and Wagner 2017, f_6, with the sign of a reward).
    """
    if target is None:
        return _best_other(logits, y) - _pick(logits, y)
    return _pick(logits, target) - _best_other(logits, target)


def dlr(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """Difference of logits ratio (Croce and Hein, ICML 2020, eq. 6; targeted eq. 7): invariant to scale.

    Untargeted (max over i != y of z_i - z_y) / (z_(1) - z_(3)) needs K >= 3 classes; targeted
    (z_target - z_y) / (z_(1) - (z_(3) + z_(4)) / 2) needs K >= 4. z_(i) is the i-th largest logit.
    """
    needed = 3 if target is None else 4
    if logits.shape[1] < needed:
        kind = "dlr" if target is None else "targeted dlr"
        raise ValueError(f"{kind} loss needs at least {needed} classes, got {logits.shape[1]}: use 'margin'")
    top = logits.topk(needed, dim=1).values
    if target is None:
        return (_best_other(logits, y) - _pick(logits, y)) / (top[:, 0] - top[:, 2] + 1e-12)
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return (_pick(logits, target) - _pick(logits, y)) / (spread + 1e-12)


def logit_gap(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """z_target - z_y = CE(y) - CE(target): the survey's targeted objective (section 3), sign corrected."""
    if target is None:
        raise ValueError("loss 'logit_gap' is a targeted objective: give target=, or use 'margin'")
    return _pick(logits, target) - _pick(logits, y)


class SampleLoss(ABC):
    """A loss with something of its own for every sample of the batch that is attacked.

    An attack works on chunks of that batch, lets solved samples go, and may evaluate several copies of each.
    """

    @abstractmethod
    def __call__(self, logits: Tensor, y: Tensor, target: Tensor | None, rows: Tensor) -> Tensor:
        """One value per row of the logits, larger the closer the attack is to its goal.

        Args:
            logits: [N, K] float.
            y: [N] int64, true labels.
            target: [N] int64 or None.
            rows: [N] int64, each row's place in the batch that the attack was called with.
        """

    @abstractmethod
    def check(self, samples: int) -> None:
        """Called before any work; raises ValueError where the loss has nothing for so many samples."""


@dataclass(frozen=True)
class LogitMatching(SampleLoss):
    """-||z - z*||^2, z* the logits of another sample: the attack that broke "The odds are odd".

    A sample whose logits are those of a clean sample of another class is taken for that class, no more
    confidently than is usual, and often keeps its logits under noise as a clean one does. Hosseini, Kannan,
    Poovendran, "Are odds really odd? Bypassing statistical detection of adversarial examples" (2019); Tramèr,
    Carlini, Brendel, Madry, "On adaptive attacks to adversarial example defenses" (NeurIPS 2020), section 4.

    Labels and targets do not enter. Give the attack `early_stop=False`: the first misclassified iterate is
    far from matching. With `EOT(transforms.Noise(...), draws, clean=True)` the logits of noisy copies are
    matched as well.

    Args:
        logits: [B, K] float, for each sample of the batch that is attacked; `logits_of_others` finds some.

    Raises:
        TypeError: logits is not a floating-point tensor.
        ValueError: it is not [B, K]; on use, it does not fit the model's logits or the batch.
    """

    logits: Tensor

    def __post_init__(self) -> None:
        """Refuse what is no logits."""
        if not isinstance(self.logits, Tensor) or not self.logits.is_floating_point():
            raise TypeError(f"LogitMatching: logits must be a floating-point tensor, got {self.logits!r}")
        if self.logits.dim() != 2:
            raise ValueError(f"LogitMatching: logits must be [B, K], got shape {list(self.logits.shape)}")

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor | None, rows: Tensor) -> Tensor:
        """[N]: minus the squared distance of each row to what it should be."""
        if logits.shape[1] != self.logits.shape[1]:
            raise ValueError(
                f"LogitMatching: logits must be [B, {logits.shape[1]}] as the model's, "
                f"got {list(self.logits.shape)}"
            )
        return -(logits - self.logits.detach()[rows].to(logits)).square().sum(1)

    def check(self, samples: int) -> None:
        """Raises ValueError where these are not the logits for so many samples."""
        if len(self.logits) != samples:
            raise ValueError(
                f"LogitMatching: logits must be [{samples}, K], a row for each sample, "
                f"got {list(self.logits.shape)}"
            )


def logits_of_others(logits: Tensor) -> Tensor:
    """For each sample of a batch, the logits of the next one, cyclically, that has another predicted class.

    Args:
        logits: [B, K], the model's for clean samples.

    Raises:
        ValueError: logits are not [B, K] or empty, or all samples have the same predicted class.
    """
    if logits.dim() != 2 or logits.numel() == 0:
        raise ValueError(
            f"logits_of_others: logits must be [B, K] with B and K at least 1, got {list(logits.shape)}"
        )
    predicted, numbers = logits.argmax(1), torch.arange(len(logits), device=logits.device)
    steps = (numbers - numbers[:, None]) % len(logits)
    others = predicted != predicted[:, None]
    if not others.any(1).all():
        raise ValueError("logits_of_others: every sample has the same predicted class")
    return logits[steps.masked_fill(~others, len(logits)).argmin(1)]


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr, "logit_gap": logit_gap}


def _pick(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None]).squeeze(1)


def _best_other(logits: Tensor, labels: Tensor) -> Tensor:
    # -inf and not a large number: right for any logits in any dtype.
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1)
