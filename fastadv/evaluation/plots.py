"""What the studies of k-WTA measured, drawn; on figures of their own, so that nothing global changes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from .activation_patterns import AngleCurves, Rule, WidthCurves, shared_in_the_limit
from .figure import INK, QUIET

FORMATS = (".png", ".pdf", ".svg")
"""The endings of the files that figures are saved in."""

COLOURS = ("#1d4ed8", "#c2264b", "#0f766e", "#b45309", "#7c3aed")
MARKERS = ("o", "s", "^", "D", "v")


def width_figure(curves: WidthCurves) -> Figure:
    """Theorem 1: how often the patterns of neighbours differ and, beside it, how much is exchanged.

    A colour stands for a beta, a marker for a rule; dotted is the limit of infinite width.
    """
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    differ, exchanged = figure.subplots(1, 2)
    for i, rule in enumerate(curves.rules):
        for j, beta in enumerate(curves.betas):
            style = {"color": _of(COLOURS, j), "marker": _of(MARKERS, i), "markersize": 4, "linewidth": 1}
            differ.plot(curves.widths, curves.differ[i, j], **style)
            # Zero cannot be drawn on a logarithmic axis: where nothing was exchanged the line is broken.
            measured = torch.where(curves.exchanged[i, j] > 0, curves.exchanged[i, j], math.nan)
            exchanged.plot(curves.widths, measured, **style)
            angle = math.degrees(math.atan(math.sqrt(beta)))
            limit = 1 - shared_in_the_limit(angle, rule)
            exchanged.axhline(limit, color=_of(COLOURS, j), linestyle=":", linewidth=0.8)
    differ.set(
        title="Do the patterns differ?", ylabel="part of the draws in which A(Wx) \N{NOT EQUAL TO} A(Wx')"
    )
    exchanged.set(title="By how much?", yscale="log", ylabel="part of A(Wx) that is not in A(Wx')")
    for axes in (differ, exchanged):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("width l of the layer")
        axes.grid(color=QUIET, alpha=0.2)
    rules = [
        Line2D([], [], color=INK, marker=_of(MARKERS, i), linestyle="", label=_name(rule))
        for i, rule in enumerate(curves.rules)
    ]
    betas = [
        Line2D([], [], color=_of(COLOURS, j), label=f"d(x, x') = {math.sqrt(beta):.2g} ||x||")
        for j, beta in enumerate(curves.betas)
    ]
    limit_line = Line2D([], [], color=QUIET, linestyle=":", label="l \N{RIGHTWARDS ARROW} \N{INFINITY}")
    figure.legend(handles=[*rules, *betas, limit_line], loc="outside lower center", ncols=4, frameon=False)
    return figure


def angle_figure(curves: AngleCurves) -> Figure:
    """Theorem 2: the part of a pattern that two inputs share, against the angle between them.

    Markers are measured, lines the limit of infinite width.
    """
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for i, rule in enumerate(curves.rules):
        colour = _of(COLOURS, i)
        limit = [shared_in_the_limit(angle, rule) for angle in curves.angles]
        axes.plot(curves.angles, limit, color=colour, linewidth=1)
        axes.plot(
            curves.angles,
            curves.shared[i],
            color=colour,
            marker=_of(MARKERS, i),
            markersize=4,
            linestyle="",
            label=_name(rule),
        )
    axes.set(
        title=f"What the patterns of two inputs share (width {curves.width}; lines: infinite width)",
        xlabel="angle between x and x', in degrees",
        ylabel="part of A(Wx) that is in A(Wx') as well",
    )
    axes.grid(color=QUIET, alpha=0.2)
    axes.legend(frameon=False)
    return figure


def landscape_figure(landscapes: Mapping[str, Tensor], eps: float) -> Figure:
    """Loss landscapes beside each other, as 3-D surfaces, each on a scale of its own.

    Args:
        landscapes: by title, each [P, P] as `landscape` gives it for one sample.
        eps: half the grid's width.
    """
    figure = Figure(figsize=(5.5 * len(landscapes), 4.8))
    for number, (title, losses) in enumerate(landscapes.items(), start=1):
        axes: Any = figure.add_subplot(1, len(landscapes), number, projection="3d")
        ticks = torch.linspace(-eps, eps, len(losses))
        s, t = torch.meshgrid(ticks, ticks, indexing="ij")
        stride = max(1, len(losses) // 50)
        axes.plot_surface(
            s.numpy(), t.numpy(), losses.numpy(), cmap="viridis", rstride=stride, cstride=stride, linewidth=0
        )
        axes.set(title=title, xlabel="sign of the gradient", ylabel="random signs", zlabel="cross-entropy")
        axes.locator_params(nbins=5)
        axes.set_box_aspect((1, 1, 0.75), zoom=0.85)
        axes.view_init(elev=28, azim=-125)
    figure.subplots_adjust(left=0, right=0.96, bottom=0.04, top=0.94, wspace=0)
    return figure


def _name(rule: Rule) -> str:
    return "ReLU" if rule is None else f"k-WTA, \N{GREEK SMALL LETTER GAMMA} = {rule:g}"


def _of(cycle: Sequence[str], number: int) -> str:
    return cycle[number % len(cycle)]
