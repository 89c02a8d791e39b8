"""Scores of a detector, drawn; on figures of their own, so that nothing global changes."""

import math
from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .detection import Roc, Tuning
from .figure import INK, QUIET
from .plots import COLOURS, MARKERS

BINS = 60


def score_figure(scores: Mapping[str, Tensor], cutoff: float) -> Figure:
    """Histograms of scores on one axis, each as parts of its samples, and the cutoff between them.

    Args:
        scores: by name, such as "clean" and "PGD", each [N]; infinite ones are drawn at the ends.
        cutoff: beyond it samples are flagged.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    together = torch.cat([values.double().cpu() for values in scores.values()])
    finite = together[together.isfinite()]
    low, high = (finite.min().item(), finite.max().item()) if len(finite) else (cutoff - 1, cutoff + 1)
    edges = torch.linspace(low, max(high, low + 1e-9), BINS + 1).tolist()
    for number, (name, values) in enumerate(scores.items()):
        flagged = (values > cutoff).double().mean().item()
        axes.hist(
            values.double().cpu().clamp(low, high).numpy(),
            bins=edges,
            weights=torch.full((len(values),), 1 / len(values)).numpy(),
            histtype="stepfilled",
            alpha=0.45,
            color=COLOURS[number % len(COLOURS)],
            label=f"{name} (n={len(values)}): {100 * flagged:.1f}% flagged",
        )
    axes.axvline(cutoff, color=INK, linewidth=1, linestyle="--", label=f"cutoff {cutoff:.2f}")
    axes.set(xlabel="score: the largest z-score", ylabel="part of the samples")
    axes.grid(color=QUIET, alpha=0.2)
    axes.legend(frameon=False)
    return figure


def roc_figure(curves: Mapping[str, Roc]) -> Figure:
    """ROC curves with their areas; false positives on a logarithmic axis, where a detector is used."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    _draw(figure.subplots(), curves)
    return figure


def tuning_figure(tuning: Tuning) -> Figure:
    """Every noise that was tried, its true-positive rate and area by scale; the chosen one's ROC curves."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    rates, areas, curve = figure.subplots(1, 3)
    for number, kind in enumerate(dict.fromkeys(candidate.noise[0] for candidate in tuning.candidates)):
        mine = [candidate for candidate in tuning.candidates if candidate.noise[0] == kind]
        scales = [candidate.noise[1] for candidate in mine]
        style = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4, "label": kind}
        rates.plot(scales, [candidate.tpr for candidate in mine], **style)
        areas.plot(scales, [candidate.roc.area for candidate in mine], **style)
    kind, scale = tuning.chosen.noise
    tried = sorted({candidate.noise[1] for candidate in tuning.candidates})
    rates.set(ylabel="true-positive rate", title=f"at {100 * tuning.fpr:g}% false positives, to choose by")
    areas.set(ylabel="area under the ROC curve", title="area, to choose by")
    for axes in (rates, areas):
        axes.axvline(scale, color=QUIET, linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="scale of the noise", ylim=(-0.03, 1.03))
        axes.set_xticks(tried, [f"{value:g}" for value in tried])
        axes.minorticks_off()
        axes.grid(color=QUIET, alpha=0.2)
    rates.legend(frameon=False)
    low, high = tuning.true_positives.interval()
    _draw(curve, {"chosen by": tuning.chosen.roc, "judged by": tuning.roc})
    curve.plot(tuning.false_positives.value, tuning.true_positives.value, marker="o", color=INK, linestyle="")
    curve.set_title(
        f"{kind} {scale:g}, judged: {100 * tuning.true_positives.value:.1f}% "
        f"[{100 * low:.1f}, {100 * high:.1f}] flagged\n"
        f"at {100 * tuning.false_positives.value:.1f}% false positives (dot)",
        fontsize=10,
    )
    return figure


def _draw(axes: Axes, curves: Mapping[str, Roc]) -> None:
    smallest = 1.0
    for number, (name, curve) in enumerate(curves.items()):
        label = f"{name}, area {curve.area:.3f}"
        axes.plot(
            curve.fpr.cpu(),
            curve.tpr.cpu(),
            color=COLOURS[number % len(COLOURS)],
            label=label,
            drawstyle="steps-post",
        )
        smallest = min(smallest, curve.fpr[curve.fpr > 0].min().item())
    left = 10 ** math.floor(math.log10(smallest) - 0.01)
    chance = torch.logspace(math.log10(left), 0, 50)
    axes.plot(chance, chance, color=QUIET, linewidth=0.8, linestyle=":", label="chance")
    axes.set(
        xscale="log",
        xlim=(left, 1),
        ylim=(-0.03, 1.03),
        xlabel="false-positive rate",
        ylabel="true-positive rate",
    )
    axes.grid(color=QUIET, alpha=0.2)
    axes.legend(frameon=False, loc="lower right")
