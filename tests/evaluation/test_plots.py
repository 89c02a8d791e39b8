import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from PIL import Image

from fastadv.evaluation.activation_patterns import patterns_by_angle, patterns_by_width, shared_in_the_limit
from fastadv.evaluation.plots import angle_figure, landscape_figure, width_figure


def pixels(figure: Figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    return np.asarray(Image.open(file).convert("RGB"))


def test_the_width_figure_has_a_curve_for_each_beta_and_rule_in_both_panels():
    curves = patterns_by_width([16, 64, 256], (1e-4, 1e-2), (0.1, 0.3, None), draws=8)
    figure = width_figure(curves)
    differ, exchanged = figure.axes
    assert [line.get_ydata().tolist() for line in differ.lines] == curves.differ.flatten(0, 1).tolist()
    measured = [line for line in exchanged.lines if line.get_linestyle() == "-"]
    limits = [line for line in exchanged.lines if line.get_linestyle() == ":"]
    assert len(measured) == len(limits) == 6
    values = torch.tensor(np.array([line.get_ydata() for line in measured]))
    assert torch.equal(values.nan_to_num(0), curves.exchanged.flatten(0, 1))
    words = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {
        "k-WTA, \N{GREEK SMALL LETTER GAMMA} = 0.1",
        "k-WTA, \N{GREEK SMALL LETTER GAMMA} = 0.3",
        "ReLU",
        "d(x, x') = 0.01 ||x||",
    } <= words
    assert (pixels(figure) < 250).mean() > 0.02


def test_the_angle_figure_has_what_was_measured_and_the_limit_for_each_rule():
    curves = patterns_by_angle([0, 45, 90], (0.1, None), width=64, draws=4)
    figure = angle_figure(curves)
    lines = figure.axes[0].lines
    assert [line.get_ydata()[1] for line in lines[::2]] == [shared_in_the_limit(45, r) for r in (0.1, None)]
    assert [line.get_ydata().tolist() for line in lines[1::2]] == curves.shared.tolist()
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == [
        "k-WTA, \N{GREEK SMALL LETTER GAMMA} = 0.1",
        "ReLU",
    ]
    assert (pixels(figure) < 250).mean() > 0.02


def test_the_landscape_figure_has_a_surface_for_each_net_on_its_own_scale():
    ticks = torch.linspace(-1, 1, 25)
    bowl = ticks[:, None] ** 2 + ticks**2
    figure = landscape_figure({"ReLU": bowl, "k-WTA": 10 * bowl}, eps=0.1)
    assert [axes.get_title() for axes in figure.axes] == ["ReLU", "k-WTA"]
    for axes, top in zip(figure.axes, (2, 20), strict=True):
        (surface,) = (c for c in axes.collections if isinstance(c, Poly3DCollection))
        assert len(surface.get_array()) == 24 * 24
        assert axes.get_zlim()[1] == pytest.approx(top, rel=0.1)
        assert axes.xy_dataLim.extents.tolist() == pytest.approx([-0.1, -0.1, 0.1, 0.1])
    picture = pixels(figure)
    half = picture.shape[1] // 2
    for side in (picture[:, :half], picture[:, half:]):
        assert len(np.unique(side.reshape(-1, 3), axis=0)) > 200  # the colours of a surface


def test_the_first_axis_of_a_landscape_is_drawn_along_the_gradient(monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes3D, "plot_surface", lambda axes, *surface, **style: drawn.extend(surface))
    steep = torch.linspace(0, 1, 10, dtype=torch.float64)[:, None].expand(10, 10)
    axes = landscape_figure({"net": steep}, eps=1).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("sign of the gradient", "random signs")
    x, y, z = (values.flatten() for values in drawn)
    assert np.corrcoef(x, z)[0, 1] > 0.99
    assert abs(np.corrcoef(y, z)[0, 1]) < 0.01
