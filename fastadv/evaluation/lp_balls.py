"""lp balls in the plane, and projected gradient ascent bouncing along their boundary."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastadv import ops

NORMS = (1.0, 1.5, 2.0, 3.0, math.inf)
"""The balls that are drawn."""

SUMMIT = (0.9, 1.6)
CURVATURE = ((1.3, 0.3), (0.3, 0.5))
START = (-0.4, -0.4)


class Path(NamedTuple):
    """Projected gradient ascent within the unit ball: out of the ball, back on it, and so on.

    Attributes:
        norm: p of the ball.
        points: [steps + 1, 2] float64, the start and the iterates, all in the ball.
        moved: [steps, 2] where each step led before the projection.
    """

    norm: float
    points: Tensor
    moved: Tensor


def outline(norm: float, eps: float, points: int = 400) -> Tensor:
    """[points, 2] float64: the boundary of the lp ball around 0, counter-clockwise and closed.

    Args:
        norm: p, at least 1.
        eps: radius.
        points: how many, the first being the last; with a multiple of 8, plus 1, corners are among them.
    """
    angle = torch.linspace(0, 2 * math.pi, points, dtype=torch.float64)
    ray = torch.stack((angle.cos(), angle.sin()), dim=1)
    return eps * ray / torch.linalg.vector_norm(ray, norm, dim=1, keepdim=True)


def objective(points: Tensor) -> Tensor:
    """The loss that is climbed: concave, with its summit outside every unit ball. [..., 2] -> [...]."""
    away = points - points.new_tensor(SUMMIT)
    return -0.5 * ((away @ points.new_tensor(CURVATURE)) * away).sum(-1)


def slope(points: Tensor) -> Tensor:
    """The gradient of `objective`. [..., 2] -> [..., 2]."""
    return -(points - points.new_tensor(SUMMIT)) @ points.new_tensor(CURVATURE)


def bouncing_path(norm: float, *, steps: int = 12, step_size: float = 0.4) -> Path:
    """Plain PGD on `objective` in the unit ball: delta + step_size * gradient, then the projection.

    The survey's section 5: projection on convex sets. The ascent ends where the gradient is normal to the
    ball: <gradient, delta> = ||gradient||_q.

    Args:
        norm: p of the ball, as `fastadv.ops.project` has it.
        steps: how many.
        step_size: of the gradient, positive; the path converges for less than 2 / the largest curvature, 1.4.

    Raises:
        ValueError: a number is out of range.
    """
    if not 0 < step_size < math.inf or steps < 1:
        raise ValueError(
            f"bouncing_path: steps must be at least 1 and step_size positive and finite, "
            f"got {steps} and {step_size}"
        )
    points = torch.tensor([START], dtype=torch.float64)
    moved = points.new_empty(0, 2)
    for _ in range(steps):
        ahead = points[-1:] + step_size * slope(points[-1:])
        moved = torch.cat((moved, ahead))
        points = torch.cat((points, ops.project(ahead, 1.0, norm)))
    return Path(norm, points, moved)
