"""Robust accuracy at every eps at once, from the smallest eps that breaks each sample."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .figure import QUIET
from .plots import COLOURS
from .statistics import Rate


@dataclass(frozen=True)
class RobustnessCurve:
    """How many samples hold out against an attack, as a step function of eps.

    A sample is right at eps if no success is known within eps of it: accuracy falls by 1 / n at every
    sample's smallest eps and nowhere else, without a grid or interpolation. It starts at the clean accuracy.

        found = fastadv.minimal_eps(attack, model, x, y)
        RobustnessCurve(found.eps, limit=attack.eps).at(2 / 255)

    It is an upper bound of the robust accuracy, as every attack's. It is not the accuracy that the attack has
    when it is run at each eps: that may find samples which bisection passed over, and may miss others whose
    success at a smaller eps counts here.

    Args:
        eps: [n] floating point, each sample's smallest eps, as `fastadv.MinimalEps` has it: 0 where the clean
            sample is misclassified, inf where the attack failed at `limit`.
        limit: the largest eps that was tried for every sample; nothing is known beyond it.

    Raises:
        ValueError: eps is not [n] with n >= 1, has a NaN or a negative number, or one between limit and inf.
    """

    eps: Tensor
    limit: float

    def __post_init__(self) -> None:
        """Refuse what is no smallest eps up to `limit`."""
        if self.eps.dim() != 1 or len(self.eps) == 0:
            raise ValueError(f"RobustnessCurve: eps must be [n] with n >= 1, got {list(self.eps.shape)}")
        wrong = self.eps[~((self.eps >= 0) & ((self.eps <= self.limit) | self.eps.isposinf()))]
        if len(wrong) > 0:
            got = wrong[0].item()
            raise ValueError(
                f"RobustnessCurve: eps must be inf or from 0 to limit, {self.limit:g}, got {got:g}"
            )

    def held(self, eps: float) -> Tensor:
        """[n] bool: which samples are right at eps; ValueError for one that is not in 0 .. limit."""
        limit = torch.tensor(self.limit, dtype=self.eps.dtype).item()  # as eps itself knows it
        if not 0 <= eps <= max(limit, self.limit):
            raise ValueError(f"RobustnessCurve: eps must be in 0 .. {self.limit:g}, got {eps:g}")
        return self.eps > eps

    def at(self, eps: float) -> Rate:
        """The accuracy at eps, of which `Rate.interval` is Wilson's; ValueError for one not in 0 .. limit."""
        return Rate(int(self.held(eps).sum()), len(self.eps))

    @property
    def median(self) -> float:
        """The smallest eps at which at least half of the samples are broken; inf where none is known."""
        return self.eps.median().item()

    def steps(self) -> tuple[list[float], list[Rate]]:
        """Where the accuracy changes, with 0 and limit, and what it is from there on."""
        broken = self.eps[self.eps.isfinite()].double()
        ends = torch.tensor([0, self.limit], dtype=torch.float64, device=broken.device)
        where = torch.cat([broken, ends]).unique().tolist()
        return where, [self.at(eps) for eps in where]


def curve_figure(curves: Mapping[str, RobustnessCurve], unit: str) -> Figure:
    """Accuracy against eps with Wilson's 95% interval at each, a colour for each name; a dot at the median.

    Args:
        curves: by name.
        unit: what eps is measured in, for the axis, such as "linf, images in [0, 1]".
    """
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        where, rates = curve.steps()
        low, high = zip(*(rate.interval() for rate in rates), strict=True)
        axes.plot(
            where,
            [100 * rate.value for rate in rates],
            drawstyle="steps-post",
            color=colour,
            label=f"{name} (n={len(curve.eps)})",
        )
        band = [100 * value for value in low], [100 * value for value in high]
        axes.fill_between(where, *band, step="post", color=colour, alpha=0.15, linewidth=0)
        if curve.median <= curve.limit:
            axes.plot(
                curve.median, 100 * curve.at(curve.median).value, marker="o", markersize=5, color=colour
            )
    axes.set(
        xlabel=f"\N{GREEK SMALL LETTER EPSILON} ({unit})",
        ylabel="samples still right, in %",
        xlim=(0, max(curve.limit for curve in curves.values())),
        ylim=(-3, 103),
    )
    axes.grid(color=QUIET, alpha=0.2)
    axes.legend(frameon=False)
    return figure
