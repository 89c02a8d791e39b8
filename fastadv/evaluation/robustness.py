"""Which samples hold out against which attack: rates with intervals, the worst case, tables and a figure."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .figure import QUIET
from .plots import COLOURS, MARKERS
from .statistics import Rate

Held = Mapping[str, Tensor]
"""By attack, [seeds, n] bool: which samples a net gets right before and after it.

One row for each training seed, with samples of its own: given the nets, all samples are independent. Those of
one seed share a net, so an interval over all samples says nothing of other trainings; the seeds' spread does.
"""

WORST = "worst case"


def worst(held: Held) -> Tensor:
    """[seeds, n] bool: the samples that hold out against every attack."""
    return torch.stack(list(held.values())).all(0)


def rate(held: Tensor) -> Rate:
    """Accuracy over all seeds."""
    return Rate(int(held.sum()), held.numel())


def grid(nets: Mapping[str, Held]) -> list[list[str]]:
    """Accuracy by attack and net, each as a `cell`.

    Args:
        nets: by name, all put to the same attacks.

    Returns:
        Rows of cells, the header first and the worst case last; n is in the header.
    """
    header = ["attack", *(f"{name} (n={_samples(held)})" for name, held in nets.items())]
    attacks = next(iter(nets.values()))
    rows = [[attack, *(cell(held[attack]) for held in nets.values())] for attack in attacks]
    return [header, *rows, [WORST, *(cell(worst(held)) for held in nets.values())]]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the header first."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def robustness_figure(panels: Mapping[str, Mapping[str, Held]]) -> Figure:
    """Accuracy by attack with Wilson's 95% interval, a panel for each key and a colour for each net."""
    figure = Figure(figsize=(5.5 * len(panels), 4.8), layout="constrained")
    axes_of_panels = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, nets) in zip(axes_of_panels, panels.items(), strict=True):
        attacks = [*next(iter(nets.values())), WORST]
        for number, (name, held) in enumerate(nets.items()):
            rates = [rate(flags) for flags in (*held.values(), worst(held))]
            centres = torch.tensor([value.value for value in rates])
            bounds = torch.tensor([value.interval() for value in rates])
            axes.errorbar(
                torch.arange(len(attacks)) + 0.2 * (number - (len(nets) - 1) / 2),
                100 * centres,
                100 * (bounds - centres[:, None]).abs().T,
                label=name,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                linestyle="",
                capsize=2,
            )
        axes.set_xticks(range(len(attacks)), attacks, rotation=40, ha="right")
        axes.set(title=title, ylim=(-3, 103))
        axes.grid(color=QUIET, alpha=0.2, axis="y")
    axes_of_panels[0].set_ylabel("samples still right, in %")
    axes_of_panels[0].legend(frameon=False)
    return figure


def cell(held: Tensor) -> str:
    """Accuracy in per cent with Wilson's 95% interval, and the lowest and highest of several seeds."""
    low, high = rate(held).interval()
    text = f"{_percent(rate(held).value)} [{_percent(low)}, {_percent(high)}]"
    if len(held) == 1:
        return text
    seeds = held.double().mean(1)
    return f"{text} {_percent(seeds.min().item())} to {_percent(seeds.max().item())}"


def _samples(held: Held) -> int:
    return next(iter(held.values())).numel()


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
