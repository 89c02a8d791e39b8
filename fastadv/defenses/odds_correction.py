"""What an attacked sample was before: multinomial logistic regression on the gaps of its logits."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastadv._checks import Bounds
from fastadv.attacks.attack import Problem, pose, undisturbed

from .odds_gaps import content_ids

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x, y) -> x_adv."""


class Correction(NamedTuple):
    """The classifier for samples of one predicted class.

    Attributes:
        labels: [L] int64, the classes that it tells apart.
        weight: [L, kinds * K] float64.
        bias: [L] float64.
    """

    labels: Tensor
    weight: Tensor
    bias: Tensor


def attack_samples(
    model: nn.Module, clean: Problem, attack: Attack, classes: int, bounds: Bounds
) -> tuple[Problem, Tensor]:
    """What an attack makes of labelled samples, as a problem of its own, and [B] int64 labels.

    Raises:
        TypeError, ValueError: a label is no class, or the attack does not return samples within bounds.
    """
    x, y = clean.x, clean.y
    assert y is not None
    wrong = y[(y < 0) | (y >= classes)]
    if len(wrong) > 0:
        raise ValueError(
            f"OddsAreOdd.fit_correction: y must be classes 0 .. {classes - 1}, got {wrong[0].item()}"
        )
    with undisturbed(model):
        x_adv = attack(model, x, y)
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        got = list(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise ValueError(f"OddsAreOdd.fit_correction: attack must return samples {list(x.shape)}, got {got}")
    return pose("OddsAreOdd.fit_correction", x_adv, y, None, content_ids(x_adv), bounds), y


def fit_corrections(features: Tensor, predicted: Tensor, labels: Tensor) -> dict[int, Correction]:
    """A classifier for each predicted class that there are samples of.

    Args:
        features: [N, kinds * K] float64.
        predicted: [N] int64, what the model says.
        labels: [N] int64, the truth.
    """
    return {t: _fit(features[predicted == t], labels[predicted == t]) for t in predicted.unique().tolist()}


def correct(corrections: Mapping[int, Correction], features: Tensor, predicted: Tensor) -> Tensor:
    """[B] int64: the most likely classes of samples; where there is no correction, the predicted ones.

    Args:
        corrections: by predicted class, on the CPU.
        features: [B, kinds * K] float64 on any device.
        predicted: [B] int64 on that device.
    """
    labels = predicted.tolist()
    for row, (t, values) in enumerate(zip(labels, features.cpu(), strict=True)):
        if t in corrections:
            known, weight, bias = corrections[t]
            labels[row] = int(known[(weight @ values + bias).argmax()])
    return torch.tensor(labels, device=predicted.device)


def _fit(features: Tensor, truth: Tensor) -> Correction:
    """Minimise the sum of cross-entropies + ||weight||^2 / 2 on standardised features."""
    labels, index = truth.unique(return_inverse=True)
    centre, scale = features.mean(0), features.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    standard = (features - centre) / scale
    weight = torch.zeros(len(labels), features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(labels), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        (weight, bias), max_iter=1000, tolerance_grad=1e-7, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(standard, weight, bias), index, reduction="sum")
        value = value + weight.square().sum() / 2
        value.backward()
        return value

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss)
    weight, bias = weight.detach() / scale, bias.detach()
    return Correction(labels, weight, bias - weight @ centre)
