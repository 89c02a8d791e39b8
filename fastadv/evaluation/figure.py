"""The survey's figure: an image, a perturbation too small to see, and what the model says about their sum.

Drawn on matplotlib's Agg canvas without pyplot, so nothing global changes and no display is needed.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from fastadv.models.text import printable

GAIN = 50
"""How much the perturbation is magnified, less where that would leave [0, 1]: shown is gain * delta + 0.5."""

# Everything is placed in pixels, so that an image's own pixels are drawn as squares of equal size.
DPI = 200
PANEL_WIDTH = 448
GAP = 92
MARGIN = 56
HEADING = 66
CAPTION = 116
ROW_GAP = 34

INK = "#1c1f24"
QUIET = "#6b7280"
FOOLED = "#c2264b"
FRAME = "#d1d5db"


@dataclass(frozen=True)
class Row:
    """One attack on one image.

    Attributes:
        heading: what was asked for, such as "Any other class".
        original, result: [C, H, W] in [0, 1].
        before, after: what the model says about them, and how sure it is: (class name, confidence).
        fooled: whether the attack reached its goal.
    """

    heading: str
    original: Tensor
    result: Tensor
    before: tuple[str, float]
    after: tuple[str, float]
    fooled: bool


def save_figure(rows: Sequence[Row], radius: str, path: Path) -> None:
    """Draw original + perturbation = result, one line for each attack, with labels and confidences below.

    Args:
        rows: at least one; all images of one shape.
        radius: the ball's radius in words, such as "linf, eps 2/255"; it stands under the perturbation.
        path: the PNG to write.
    """
    height, width = rows[0].original.shape[-2:]
    panel_height = round(PANEL_WIDTH * height / width)
    row_height = HEADING + panel_height + CAPTION
    canvas_width = 2 * MARGIN + 3 * PANEL_WIDTH + 2 * GAP
    canvas_height = len(rows) * row_height + (len(rows) - 1) * ROW_GAP + MARGIN
    figure = Figure(figsize=(canvas_width / DPI, canvas_height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def write(x: float, y: float, words: str, size: float, width: float, **style: Any) -> None:
        # Names of classes are the user's: a $ in them is not mathematics, and any length must fit.
        words = textwrap.shorten(printable(words), 80, placeholder="\N{HORIZONTAL ELLIPSIS}")
        place = (x / canvas_width, 1 - y / canvas_height)
        text = figure.text(*place, words, fontsize=size, parse_math=False, va="center", **style)
        text.set_fontsize(size * min(1, width / max(text.get_window_extent().width, 1)))

    for index, row in enumerate(rows):
        top = MARGIN // 2 + index * (row_height + ROW_GAP)
        below = top + HEADING + panel_height
        write(MARGIN, top + HEADING / 2, row.heading, 8.5, canvas_width - 2 * MARGIN, color=QUIET)
        delta = row.result.float() - row.original.float()
        gain = min(GAIN, max(1, int(0.5 / max(delta.abs().max().item(), 1e-9))))
        captions = [
            (row.before[0], percent(row.before[1]), INK),
            (f"perturbation \N{MULTIPLICATION SIGN} {gain}", radius, QUIET),
            (row.after[0], percent(row.after[1]), FOOLED if row.fooled else INK),
        ]
        panels = zip((row.original, gain * delta + 0.5, row.result), captions, "+=\0", strict=True)
        for column, (image, (name, detail, colour), operator) in enumerate(panels):
            left = MARGIN + column * (PANEL_WIDTH + GAP)
            _draw(figure, image, left, canvas_height - below, PANEL_WIDTH, panel_height)
            middle = left + PANEL_WIDTH / 2
            style = {"color": colour, "weight": "normal" if column == 1 else "bold", "ha": "center"}
            write(middle, below + 38, name, 10, PANEL_WIDTH + GAP / 2, **style)
            write(middle, below + 78, detail, 9, PANEL_WIDTH, color=QUIET, ha="center")
            if operator != "\0":
                x = left + PANEL_WIDTH + GAP / 2
                write(x, below - panel_height / 2, operator, 20, GAP, color=QUIET, ha="center")
    figure.savefig(path, format="png", dpi=DPI)


def percent(confidence: float) -> str:
    """A confidence or a rate in words, cut and never rounded up: 99.99% means at least that."""
    # In decimal: in binary 57 / 200, which is 28.5%, would be cut to 28.49%.
    return f"{(100 * Decimal(repr(confidence))).quantize(Decimal('0.01'), ROUND_DOWN)}%"


def _draw(figure: Figure, image: Tensor, left: int, bottom: int, width: int, height: int) -> None:
    size = figure.get_size_inches() * DPI
    axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set(color=FRAME, linewidth=0.4)
    levels = image.detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = levels.permute(1, 2, 0).numpy()
    # Small images are shown as their pixels; large ones are averaged down.
    smooth = "antialiased" if image.shape[-1] > width else "nearest"
    if pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, axis=-1)
    axes.imshow(pixels, interpolation=smooth, aspect="auto")
