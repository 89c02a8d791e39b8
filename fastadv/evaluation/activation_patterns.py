"""How the activation patterns of two inputs differ: the two theorems on k-WTA, measured.

Xiao, Zhong and Zheng, "Enhancing adversarial defense by k-winners-take-all", ICLR 2020; the survey's
section 8. A layer W x with independent Gaussian weights is looked at, its pattern A(W x) being the set of
units that are on: the winners of k-WTA, or the positive ones of a ReLU.

All that W x and W x' depend on is W within the plane of x and x', and there it is Gaussian again: at an
angle t between the inputs, of any dimension and of length 1, each unit gets a pair (a, cos(t) a + sin(t) b)
with a, b normal. So W is drawn in that plane only. Lengths do not matter to patterns.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastadv.defenses import KWTA

Rule = float | None
"""What turns units on: k-WTA of that gamma, or with None a ReLU."""
OnStep = Callable[[int, int], None]

WIDTHS = [2**n for n in range(4, 17)]
ANGLES = range(0, 181, 5)

CHUNK = 2**20
"""How many units are drawn at a time."""


class WidthCurves(NamedTuple):
    """What `patterns_by_width` measured.

    Attributes:
        widths: the layer's widths l, [L].
        betas: d(x, x')^2 / ||x||^2, [D], with d the distance of x' from the line through 0 and x.
        rules: [R].
        differ: [R, D, L] float64: in what part of the draws A(W x) != A(W x').
        exchanged: [R, D, L] float64: the part of A(W x) that is not in A(W x'), on average.
    """

    widths: Sequence[int]
    betas: Sequence[float]
    rules: Sequence[Rule]
    differ: Tensor
    exchanged: Tensor


class AngleCurves(NamedTuple):
    """What `patterns_by_angle` measured.

    Attributes:
        angles: between x and x', in degrees, [T].
        rules: [R].
        width: the layer's.
        shared: [R, T] float64: the part of A(W x) that is in A(W x') as well, on average.
    """

    angles: Sequence[float]
    rules: Sequence[Rule]
    width: int
    shared: Tensor


def patterns_by_width(
    widths: Sequence[int] = WIDTHS,
    betas: Sequence[float] = (1e-6, 1e-4, 1e-2),
    rules: Sequence[Rule] = (0.1, 0.3, None),
    *,
    draws: int = 256,
    seed: int = 0,
    on_step: OnStep = lambda step, steps: None,
) -> WidthCurves:
    """Theorem 1 of Xiao et al. (2020): neighbours have other patterns once the layer is wide enough.

    The theorem speaks of all x' at a distance at once, with l growing with the inputs' dimension; here it is
    one x' for each draw of W.

    Args:
        widths: the layer's widths l.
        betas: squared perpendicular distances of x' from x, relative to ||x||^2; x' = x + sqrt(beta) ||x|| u.
        rules: values of gamma, None for a ReLU.
        draws: how often W is drawn for each width.
        seed: of the draws; the global generator is not used.
        on_step: called with (widths done, all widths).

    Raises:
        ValueError: a width or the number of draws is below 1, a beta is negative, or a gamma not in (0, 1].
    """
    if min(*widths, draws) < 1 or min(betas) < 0:
        raise ValueError(
            f"patterns_by_width: expected widths and draws of at least 1 and betas of at least 0, "
            f"got {list(widths)}, {draws} and {list(betas)}"
        )
    angles = [math.atan(math.sqrt(beta)) for beta in betas]
    differ, exchanged = [], []
    for step, width in enumerate(widths):
        changed, lost = _compare(width, angles, rules, draws, seed)
        differ.append(changed.double().mean(-1))
        exchanged.append(lost.mean(-1))
        on_step(step + 1, len(widths))
    return WidthCurves(widths, betas, rules, torch.stack(differ, -1), torch.stack(exchanged, -1))


def patterns_by_angle(
    angles: Sequence[float] = ANGLES,
    rules: Sequence[Rule] = (0.001, 0.02, 0.1, 0.3, None),
    *,
    width: int = 16384,
    draws: int = 32,
    seed: int = 0,
    on_step: OnStep = lambda step, steps: None,
) -> AngleCurves:
    """Theorem 2 of Xiao et al. (2020): the patterns of different directions have little in common.

    Args:
        angles: between x and x', in degrees.
        rules: values of gamma, None for a ReLU.
        width: of the layer.
        draws: how often W is drawn.
        seed: of the draws; the global generator is not used.
        on_step: called with (angles done, all angles).

    Raises:
        ValueError: the width or the number of draws is below 1, or a gamma is not in (0, 1].
    """
    if min(width, draws) < 1:
        raise ValueError(
            f"patterns_by_angle: expected a width and draws of at least 1, got {width} and {draws}"
        )
    shared = []
    for step, angle in enumerate(angles):
        _, lost = _compare(width, [math.radians(angle)], rules, draws, seed)
        shared.append(1 - lost.mean(-1)[:, 0])
        on_step(step + 1, len(angles))
    return AngleCurves(angles, rules, width, torch.stack(shared, -1))


def shared_in_the_limit(angle: float, rule: Rule) -> float:
    """The part of a pattern that two inputs share as the layer's width goes to infinity.

    That is P(v > t | u > t) of normal u, v with correlation cos(angle) and P(u > t) = gamma; for a ReLU, t
    is 0. From Plackett's identity, dP/d(cos s) of P(u > t, v > t) is the bivariate density at (t, t):

        P(u > t, v > t) = max(0, 2 gamma - 1) + 1 / (2 pi) * integral from angle to pi of
                          exp(-t^2 / (1 + cos s)) ds

    For every angle below 180 degrees it is positive: at a fixed gamma patterns do not become disjoint, as
    theorem 2 has it, however wide the layer is. They do as gamma falls to 0.

    Args:
        angle: between the inputs, in degrees.
        rule: gamma, or None for a ReLU.
    """
    gamma = 0.5 if rule is None else rule
    if gamma == 1:
        return 1.0
    threshold = torch.special.ndtri(torch.tensor(1 - gamma, dtype=torch.float64))
    s = torch.linspace(math.radians(angle), math.pi, 20_001, dtype=torch.float64)
    # At s = pi the exponent is -infinity, and 0 where t is.
    density = (-(threshold**2) / (1 + s.cos()).clamp(min=1e-300)).exp()
    both = max(0.0, 2 * gamma - 1) + torch.trapezoid(density, s).item() / (2 * math.pi)
    return both / gamma


def _compare(
    width: int, angles: Sequence[float], rules: Sequence[Rule], draws: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Whether A(W x) and A(W x') differ, and which part of A(W x) is not in A(W x'), at angles in radians.

    [R, A, draws] bool and float64.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [None if rule is None else KWTA(rule) for rule in rules]
    lost = torch.empty(len(rules), len(angles), draws, dtype=torch.float64)
    changed = torch.empty_like(lost, dtype=torch.bool)
    for rows in torch.arange(draws).split(max(1, CHUNK // width)):
        a, b = torch.randn(2, len(rows), width, generator=generator)
        for j, angle in enumerate(angles):
            neighbour = math.cos(angle) * a + math.sin(angle) * b
            for i, layer in enumerate(layers):
                on = a > 0 if layer is None else layer.pattern(a)
                still = neighbour > 0 if layer is None else layer.pattern(neighbour)
                changed[i, j, rows] = (on != still).any(1)
                # A narrow ReLU layer may have no unit on: then it has none to lose.
                lost[i, j, rows] = (on & ~still).sum(1) / on.sum(1).clamp(min=1).double()
    return changed, lost
