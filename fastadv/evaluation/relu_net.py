"""The loss of a small random ReLU net around a sample: where an attack's ascent may end too early."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv._checks import is_integer, is_real


class Slices(NamedTuple):
    """What `relu_net_slices` computed; all float64, and 0 on the ticks is the sample.

    Attributes:
        ticks: [P] how far along a direction, from -reach to reach.
        line: [P] the loss along the first direction.
        surface: [P, P] the loss along the first (rows) and the second direction (columns).
        ends: index into `line` at which going uphill from the sample ends.
        best: index into `line` of the largest loss.
    """

    ticks: Tensor
    line: Tensor
    surface: Tensor
    ends: int
    best: int


def relu_net_slices(*, units: int = 100, reach: float = 3.0, points: int = 121, seed: int = 3) -> Slices:
    """The logistic loss of a random net with one hidden layer, along one and two directions of its input.

    h(x) = <v, relu(W x + c)> with independent normal W and c of variance 1 and v of variance 1/units, and
    L = log(1 + exp(-y h(x))) with y the sign of h at the sample, x = 0: the net of the survey's section 4. A
    linear classifier's loss rises along one direction everywhere; this one has several maxima, so ascent
    may end below the largest loss. Of normal weights only the products with the two orthonormal directions
    matter, whatever the number of inputs, so those are what is drawn.

    Args:
        units: width of the hidden layer, at least 1.
        reach: how far to go in either sense; positive and finite.
        points: along each direction, odd and at least 3, so that the sample is one.
        seed: of the weights; of the seeds 0 to 999, ascent ends below the largest loss with 303, of which the
            default is one. The global generator is not used.

    Raises:
        ValueError: a number is out of range.
    """
    for name, value, least in (("units", units, 1), ("points", points, 3)):
        if not is_integer(value) or value < least:
            raise ValueError(f"relu_net_slices: {name} must be an integer of at least {least}, got {value!r}")
    if points % 2 == 0:
        raise ValueError(f"relu_net_slices: points must be odd, got {points}")
    if not is_real(reach) or not 0 < float(reach) < float("inf"):
        raise ValueError(f"relu_net_slices: reach must be positive and finite, got {reach!r}")
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    first, biases, last = normal(units, 2), normal(units), normal(units) / units**0.5
    middle = points // 2
    ticks = torch.arange(-middle, middle + 1, dtype=torch.float64) * (reach / middle)
    x = torch.cartesian_prod(ticks, ticks)
    outputs = ((x @ first.T + biases).relu() @ last).view(points, points)
    surface = F.softplus(-outputs[middle, middle].sign() * outputs)
    line = surface[:, middle].clone()
    return Slices(ticks, line, surface, uphill(line, middle), int(line.argmax()))


def uphill(line: Tensor, start: int) -> int:
    """The index of the local maximum to which steps to the larger neighbour lead, from `start`."""
    here = start
    while True:
        around = range(max(here - 1, 0), min(here + 2, len(line)))
        highest = max(around, key=lambda index: line[index].item())
        if line[highest] <= line[here]:
            return here
        here = highest


def maxima(line: Tensor) -> int:
    """How many local maxima a line [P] has, its ends included; a plateau counts once."""
    values = torch.unique_consecutive(line)
    if len(values) == 1:
        return 1
    rises = values.diff() > 0
    inside = rises[:-1] & ~rises[1:]
    return int(inside.sum()) + int(~rises[0]) + int(rises[-1])
