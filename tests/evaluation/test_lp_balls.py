import math

import pytest
import torch

from fastadv import ops
from fastadv.evaluation.lp_balls import NORMS, bouncing_path, objective, outline, slope

DUAL = {1: math.inf, 1.5: 3, 2: 2, 3: 1.5, math.inf: 1}


def lp(points, norm):
    return torch.linalg.vector_norm(points, norm, dim=-1)


@pytest.mark.parametrize("norm", NORMS)
def test_the_outline_is_the_boundary_of_the_ball_and_closes(norm):
    edge = outline(norm, 0.3, points=401)
    torch.testing.assert_close(lp(edge, norm), torch.full((401,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(edge[0], edge[-1])
    angles = torch.atan2(edge[:, 1], edge[:, 0])
    assert (angles[:200].diff() > 0).all()
    for corner in ([0.3, 0], [0, 0.3], [-0.3, 0]):
        assert lp(edge - edge.new_tensor(corner), 2).min() < 1e-12
    if norm == math.inf:
        assert lp(edge - 0.3, 2).min() < 1e-12


@pytest.mark.parametrize("norm", NORMS)
def test_the_path_stays_in_the_ball_leaves_it_with_steps_and_ends_where_the_gradient_is_normal_to_it(norm):
    path = bouncing_path(norm, steps=200)
    assert path.points.shape == (201, 2) and path.moved.shape == (200, 2)
    assert (lp(path.points, norm) <= 1 + 1e-12).all()
    outside = lp(path.moved, norm) > 1
    assert outside.sum() > 150 and not outside.all()
    torch.testing.assert_close(path.points[1:][~outside], path.moved[~outside])
    # A projection's rest is normal to the ball: <v - x, x> = ||v - x||_q.
    rest = (path.moved - path.points[1:])[outside]
    torch.testing.assert_close((rest * path.points[1:][outside]).sum(1), lp(rest, DUAL[norm]))
    end = path.points[-1]
    assert (slope(end) @ end).item() == pytest.approx(lp(slope(end), DUAL[norm]).item(), abs=1e-9)
    assert (objective(path.points).diff() >= -1e-12).all()
    assert objective(end) >= objective(outline(norm, 1, 4001)).max() - 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_every_step_is_that_of_plain_pgd(norm):
    path = bouncing_path(norm)
    step = ops.pgd_step(
        path.points[:-1],
        torch.zeros(12, 2).double(),
        slope(path.points[:-1]),
        eps=1.0,
        step_size=0.4,
        norm=norm,
        bounds=None,
        rule="gradient",
    )
    torch.testing.assert_close(step, path.points[1:])


def test_the_slope_is_the_gradient_of_the_objective():
    points = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(objective(points).sum(), points)
    torch.testing.assert_close(slope(points.detach()), gradient)


@pytest.mark.parametrize("change", [{"steps": 0}, {"step_size": 0}, {"step_size": math.nan}])
def test_bad_numbers_are_refused(change):
    with pytest.raises(ValueError, match=r"^bouncing_path: steps must be at least 1 and step_size positive"):
        bouncing_path(2, **change)
