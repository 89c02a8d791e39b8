"""The survey's sections 4 and 5, drawn: a loss that is not concave, lp balls, and a linear boundary."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from fastadv.defenses.linear import dual_norm

from .figure import FOOLED, INK, QUIET
from .linear_boundary import Boundaries, Classifier
from .lp_balls import Path, objective, outline
from .plots import COLOURS
from .relu_net import Slices


def relu_net_figure(slices: Slices) -> Figure:
    """The loss along one direction, with where ascent from the sample ends, and along two."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.add_subplot(1, 2, 1)
    ticks, line, middle = slices.ticks, slices.line, len(slices.ticks) // 2
    axes.plot(ticks, line, color=COLOURS[0], linewidth=1.5)
    marks = (
        ("the sample", middle, "o", INK),
        ("where ascent from it ends", slices.ends, "s", COLOURS[3]),
        ("the largest loss", slices.best, "*", FOOLED),
    )
    for label, index, marker, colour in marks:
        axes.plot(ticks[index], line[index], marker, color=colour, markersize=9, label=label, linestyle="")
    axes.set(xlabel="along the first direction", ylabel="logistic loss")
    axes.grid(color=QUIET, alpha=0.2)
    axes.legend(frameon=False)
    space: Any = figure.add_subplot(1, 2, 2, projection="3d")
    s, t = torch.meshgrid(ticks, ticks, indexing="ij")
    stride = max(1, len(ticks) // 60)
    space.plot_surface(
        s.numpy(),
        t.numpy(),
        slices.surface.numpy(),
        cmap="viridis",
        rstride=stride,
        cstride=stride,
        linewidth=0,
    )
    space.plot(ticks.numpy(), 0 * ticks.numpy(), line.numpy(), color=COLOURS[0], linewidth=1.5, zorder=10)
    space.set(xlabel="first direction", ylabel="second direction", zlabel="logistic loss")
    space.locator_params(nbins=5)
    space.set_box_aspect((1, 1, 0.75), zoom=0.85)
    space.view_init(elev=28, azim=-125)
    return figure


def ball_figure(norms: Sequence[float], paths: Sequence[Path]) -> Figure:
    """The unit balls of all norms over each other and, beside them, one ball for each path on it."""
    rows = -(-(1 + len(paths)) // 3)
    figure = Figure(figsize=(12.6, 4.4 * rows), layout="constrained")
    first, *others = figure.subplots(rows, 3, squeeze=False).flat
    for number, norm in enumerate(norms):
        edge = outline(norm, 1)
        first.plot(*edge.T, color=COLOURS[number % len(COLOURS)], linewidth=1.5, label=f"p = {_name(norm)}")
    first.set_title("unit balls")
    first.legend(loc="center", frameon=False)
    ticks = torch.linspace(-1.4, 1.8, 161, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1)
    for unused in others[len(paths) :]:
        unused.remove()
    for axes, path in zip(others, paths, strict=False):
        axes.contour(ticks, ticks, objective(grid), levels=14, colors=QUIET, alpha=0.35, linewidths=0.7)
        axes.fill(*outline(path.norm, 1).T, facecolor=COLOURS[0], edgecolor=COLOURS[0], alpha=0.15)
        for start, out, back in zip(path.points, path.moved, path.points[1:], strict=False):
            axes.plot(*torch.stack((start, out)).T, color=INK, linewidth=0.9)
            axes.plot(*torch.stack((out, back)).T, color=FOOLED, linewidth=0.9, linestyle=":")
        axes.plot(*path.points.T, "o", color=INK, markersize=3.5)
        axes.plot(*path.moved.T, "x", color=FOOLED, markersize=4)
        axes.set_title(f"PGD, p = {_name(path.norm)}: step (solid), projection (dotted)", fontsize=9)
    for axes in (first, *others[: len(paths)]):
        axes.set(xlim=(-1.4, 1.8), ylim=(-1.4, 1.8), aspect="equal")
    return figure


def boundary_figure(study: Boundaries) -> Figure:
    """Each classifier's boundary among the samples and their balls, red where a ball is not clear of it.

    Dotted are the lines at a distance of eps: a sample between them is not certified.
    """
    edge = outline(study.norm, study.eps)
    low, high = study.x.amin(0) - 1.3 * study.eps - 0.05, study.x.amax(0) + 1.3 * study.eps + 0.05
    (left, bottom), (right, top) = low.tolist(), high.tolist()
    figure = Figure(
        figsize=(6 * len(study.classifiers), 6 * (top - bottom) / (right - left) + 0.6), layout="constrained"
    )
    panels = figure.subplots(1, len(study.classifiers), squeeze=False)[0]
    for axes, (name, classifier) in zip(panels, study.classifiers.items(), strict=True):
        safe = classifier.radii > study.eps
        balls = study.x[:, None] + edge
        colours = [QUIET if ok else FOOLED for ok in safe.tolist()]
        axes.add_collection(LineCollection(list(balls.numpy()), colors=colours, linewidths=0.5, alpha=0.5))
        for label, colour, marker in ((-1, COLOURS[0], "o"), (1, COLOURS[3], "^")):
            axes.plot(*study.x[study.y == label].T, marker, color=colour, markersize=4)
        for offset, style in ((0.0, "-"), (study.eps, ":"), (-study.eps, ":")):
            points = _line(classifier, offset, study.norm, (low + high) / 2, float((high - low).norm()))
            axes.plot(*points.T, color=INK, linestyle=style, linewidth=1.2)
        wrong, broken = int((classifier.radii == 0).sum()), int((~safe).sum())
        axes.set(
            title=f"{name}: {wrong} of {len(safe)} wrong, {broken} in the worst case",
            xlim=(left, right),
            ylim=(bottom, top),
            aspect="equal",
        )
    return figure


def _line(classifier: Classifier, distance: float, norm: float, middle: Tensor, length: float) -> Tensor:
    """[2, 2]: the ends of a piece of the line at this distance from the boundary, `length` to either side."""
    w, b = classifier.w, classifier.b
    off = w @ middle + b - distance * dual_norm(w, norm)
    foot = middle - off * w / w.square().sum()
    along = torch.stack((-w[1], w[0])) / w.norm() * length
    return torch.stack((foot - along, foot + along))


def _name(norm: float) -> str:
    return "\N{INFINITY}" if math.isinf(norm) else f"{norm:g}"
