import math

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from fastadv.defenses.linear import dual_norm
from fastadv.evaluation.geometry_plots import ball_figure, boundary_figure, relu_net_figure
from fastadv.evaluation.linear_boundary import boundaries
from fastadv.evaluation.lp_balls import NORMS, bouncing_path
from fastadv.evaluation.relu_net import relu_net_slices


def test_the_net_s_figure_marks_the_sample_where_ascent_ends_and_the_largest_loss():
    slices = relu_net_slices()
    flat, space = relu_net_figure(slices).axes
    curve, *marks = flat.lines
    assert curve.get_ydata().tolist() == slices.line.tolist()
    places = [(float(mark.get_xdata()[0]), float(mark.get_ydata()[0])) for mark in marks]
    expected = [(float(slices.ticks[i]), float(slices.line[i])) for i in (60, slices.ends, slices.best)]
    assert places == expected
    assert [text.get_text() for text in flat.get_legend().get_texts()] == [
        "the sample",
        "where ascent from it ends",
        "the largest loss",
    ]
    assert any(isinstance(drawn, Poly3DCollection) for drawn in space.collections)
    assert space.get_zlim()[1] >= slices.surface.max()


def test_the_balls_have_an_outline_for_each_norm_and_a_panel_for_each_path():
    paths = [bouncing_path(norm, steps=5) for norm in NORMS]
    figure = ball_figure(NORMS, paths)
    balls, *panels = figure.axes
    assert len(panels) == len(paths)
    for norm, line in zip(NORMS, balls.lines, strict=True):
        edge = torch.tensor(np.stack(line.get_data(), axis=1))
        torch.testing.assert_close(torch.linalg.vector_norm(edge, norm, dim=1), torch.ones(400).double())
    assert [text.get_text() for text in balls.get_legend().get_texts()] == [
        "p = 1", "p = 1.5", "p = 2", "p = 3", "p = \N{INFINITY}",
    ]  # fmt: skip
    for axes, path in zip(panels, paths, strict=True):
        *_, kept, moved = axes.lines
        assert np.stack(kept.get_data(), axis=1).tolist() == path.points.tolist()
        assert np.stack(moved.get_data(), axis=1).tolist() == path.moved.tolist()
        assert len(axes.lines) == 2 * 5 + 2  # a line out and a line back for each step


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_the_boundary_s_figure_has_a_ball_for_each_sample_and_the_lines_at_eps(norm):
    study = boundaries(0.3, norm)
    figure = boundary_figure(study)
    assert [axes.get_title().partition(":")[0] for axes in figure.axes] == ["natural", "robust"]
    for axes, classifier in zip(figure.axes, study.classifiers.values(), strict=True):
        (balls,) = (drawn for drawn in axes.collections if isinstance(drawn, LineCollection))
        edges = torch.tensor(np.stack([path.vertices for path in balls.get_paths()]))
        sizes = torch.linalg.vector_norm(edges - study.x[:, None], norm, dim=2)
        torch.testing.assert_close(sizes, torch.full_like(sizes, 0.3))
        red = torch.tensor(balls.get_edgecolors()[:, 0] > 0.7)
        assert torch.equal(red, classifier.radii <= 0.3)
        assert f"{int(red.sum())} in the worst case" in axes.get_title()
        for line, distance in zip(axes.lines[2:], (0, 0.3, -0.3), strict=True):
            ends = torch.tensor(np.stack(line.get_data(), axis=1))
            away = (ends @ classifier.w + classifier.b) / dual_norm(classifier.w, norm)
            torch.testing.assert_close(away, torch.full((2,), distance, dtype=torch.float64))
