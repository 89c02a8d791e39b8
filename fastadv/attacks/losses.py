"""What attacks maximise: one value per sample, larger the closer the attack is to its goal.

A loss is a name or a callable `loss(logits, y, target) -> [B]` with logits [B, K] float, y [B] int64 the true
labels and target [B] int64 or None; it must be differentiable in the logits.
"""

from collections.abc import Callable

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


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr, "logit_gap": logit_gap}


def _pick(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None]).squeeze(1)


def _best_other(logits: Tensor, labels: Tensor) -> Tensor:
    # -inf and not a large number: right for any logits in any dtype.
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1)
