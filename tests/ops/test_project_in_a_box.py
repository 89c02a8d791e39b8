"""project on the intersection of ball and box, and on the ball of norm 0: nothing allowed is nearer."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fastadv import ops
from tests.ops.inputs import step_inputs
from tests.ops.norms import FINITE_NORMS, dual, norm_of

NORMS = [*FINITE_NORMS, math.inf]


def inputs(size, seed=0, scale=1.0):
    """Deltas, and samples some of which are on the faces of the box."""
    _, x, delta = step_inputs((6, size), torch.float64, "cpu", seed)
    return delta * scale, x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("part", [0.05, 0.5, 0.95])
def test_no_point_of_ball_and_box_is_nearer(part, norm, device, backend):
    """u = P(v) iff <v - u, w - u> <= 0 for every w allowed; the largest <v - u, w> is bounded from above.

    For any multiplier y >= 0: max <g, w> <= max over the box of <g - y, w> + eps ||y||_q, and the one of the
    constraint ||u||_p <= eps, y = c |u|^(p - 1) sgn(u), makes that an equality at the projection.
    """
    delta, x = (t.to(device) for t in inputs(300))
    clipped = (x + delta).clamp(0, 1) - x
    eps = part * norm_of(clipped, norm)
    u = ops.project(delta, eps, norm, x=x, bounds=(0.0, 1.0))
    assert torch.allclose(norm_of(u, norm), eps, rtol=1e-12)
    assert (x + u).min() >= 0
    assert (x + u).max() <= 1
    gap = delta - u
    room = torch.where(delta < 0, x, 1 - x)
    free = (u.abs() < room) & (gap.abs() > 0)
    if norm == math.inf:
        y = torch.where(u.abs() >= eps[:, None] * (1 - 1e-12), gap, 0)
    elif norm == 1:
        theta = torch.where(free & (u != 0), gap.abs(), 0).amax(1, keepdim=True)
        y = delta.sign() * torch.minimum(theta, gap.abs().maximum(theta * (u != 0)))
    else:
        shape = u.abs().clamp(min=1e-307) ** (norm - 1)  # 0 is what is less
        first = torch.where(free, u.abs(), 0).argmax(1, keepdim=True)  # where c is known best
        c = gap.abs().gather(1, first) / shape.gather(1, first)
        y = delta.sign() * torch.where(u.abs() < 1e-307, gap.abs().minimum(c * shape), c * shape)
    rest = gap - y
    over_the_box = torch.where(rest > 0, rest * (1 - x), rest * -x).sum(1)
    highest = over_the_box + eps * norm_of(y, dual(norm))
    scale = norm_of(gap, 2) * norm_of(u, 2)
    assert ((highest - (gap * u).sum(1)) <= 1e-7 * scale).all()


def exactly_l1(size, room, eps):
    """The projection's magnitudes, in rational numbers: min(max(a - theta, 0), room), or min(a, room)."""
    size, room = ([Fraction(number) for number in numbers] for numbers in (size, room))

    def moved(theta):
        return [min(max(a - theta, 0), r) for a, r in zip(size, room, strict=True)]

    above = max(size)
    for below in sorted({*size, *(a - r for a, r in zip(size, room, strict=True)), 0}, reverse=True):
        spent, more = sum(moved(above)), sum(moved(below))
        if more >= eps:  # from the one to the other the sum is a straight line
            part = (eps - spent) / (more - spent) if more > spent else 0
            return moved(above + (below - above) * part)
        above = below
    return moved(0)


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e12, 1e18, 1e30])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_l1_is_exact_where_deltas_dwarf_the_box(ties, scale, dtype, device, backend):
    """There theta is known to fewer digits than the room has: among ties only to 10^14 at 1e30."""
    delta, x = (t.to(dtype) for t in inputs(20))
    if ties:
        delta = delta.sign() * (1 + delta.abs().gt(0.6))
    delta = (delta.double() * scale).to(dtype)
    room = torch.where(delta > 0, 1 - x, x).double()
    for eps in (0.25, 1.0, 3.0):
        u = ops.project(delta.to(device), eps, 1, x=x.to(device), bounds=(0.0, 1.0)).cpu().double()
        assert (u.abs().sum(1) <= eps).all()
        for row, size, rooms in zip(u.abs(), delta.double().abs().tolist(), room.tolist(), strict=True):
            exact = [float(number) for number in exactly_l1(size, rooms, Fraction(eps))]
            tolerance = 1e-11 if dtype == torch.float64 else 1e-6
            assert torch.allclose(row, torch.tensor(exact, dtype=torch.float64), rtol=0, atol=tolerance)


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, 3.0])
def test_small_cases_agree_with_a_general_solver(norm, device, backend):
    delta, x = inputs(3, seed=5)
    eps = 0.4
    out = ops.project(delta.to(device), eps, norm, x=x.to(device), bounds=(0.0, 1.0)).cpu()
    for v, centre, u in zip(delta.numpy(), x.numpy(), out.numpy(), strict=True):
        sign = np.sign(v)
        room = np.where(v < 0, centre, 1 - centre)
        solved = minimize(  # in u's own orthant, where the norm is smooth
            lambda s, v=v: np.sum((s - np.abs(v)) ** 2) / 2,
            np.minimum(room, 0.05),
            jac=lambda s, v=v: s - np.abs(v),
            bounds=[(0, r) for r in room],
            constraints={"type": "ineq", "fun": lambda s: eps**norm - np.sum(np.maximum(s, 0) ** norm)},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert np.allclose(u, sign * solved.x, atol=1e-5)


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2.9, 4, 100])
def test_norm_0_keeps_the_elements_that_bring_it_closest(count, boxed, pixels, device, backend):
    delta, x = (t.reshape(6, 2, 4) for t in inputs(8, seed=3))
    target = (x + delta).clamp(0, 1) - x if boxed else delta
    box = {"x": x.to(device), "bounds": (0.0, 1.0)} if boxed else {}
    out = ops.project(delta.to(device), float(count), 0, pixels=pixels, **box).cpu()
    units = list(itertools.product(range(2), range(4))) if not pixels else range(4)
    k = min(int(count), len(units))
    for i in range(6):
        distances = []
        for chosen in itertools.combinations(units, k):
            u = torch.zeros(2, 4, dtype=torch.float64)
            for unit in chosen:
                at = (slice(None), unit) if pixels else unit
                u[at] = target[i][at]
            distances.append((delta[i] - u).square().sum())
        assert torch.allclose((delta[i] - out[i]).square().sum(), torch.stack(distances).min())
        changed = (out[i] != 0).any(0) if pixels else out[i] != 0
        assert changed.sum() <= k


def test_norm_0_keeps_the_first_of_equals_and_whole_pixels(device, backend):
    ones = torch.ones(1, 2, 3, device=device)
    assert ops.project(ones, 4.0, 0).flatten().tolist() == [1, 1, 1, 1, 0, 0]
    assert ops.project(ones, 2.0, 0, pixels=True).tolist() == [[[1, 1, 0], [1, 1, 0]]]
    large = torch.tensor([[1e30, -3e30, 2e30]], device=device)
    assert ops.project(large, 1.0, 0).tolist() == [[0, large[0, 1].item(), 0]]


def test_each_element_of_a_vector_is_a_pixel(device, backend):
    delta, x = (t.to(device) for t in inputs(20))
    box = {"x": x, "bounds": (0.0, 1.0)}
    expected = ops.project(delta, 4.0, 0, **box)
    assert ((expected != 0).sum(1) == 4).all()
    assert torch.equal(ops.project(delta, 4.0, 0, pixels=True, **box), expected)
    step = {"eps": 4.0, "step_size": 0.3, "norm": 0}
    assert torch.equal(ops.pgd_step(x, x, delta, pixels=True, **step), ops.pgd_step(x, x, delta, **step))


def test_an_element_at_its_bound_stays_and_leaves_the_radius_to_the_others(device, backend):
    x = torch.tensor([[1.0, 0.5, 0.5]], device=device)
    delta = torch.tensor([[9.0, 0.3, 0.1]], device=device)
    out = ops.project(delta, 0.3, "l1", x=x, bounds=(0.0, 1.0))
    assert torch.allclose(out, torch.tensor([[0.0, 0.25, 0.05]], device=device), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": 1, "x": torch.zeros(2, 3)}, "x and bounds must come together"),
        ({"norm": 1, "bounds": (0, 1)}, "x and bounds must come together"),
        ({"norm": 1, "pixels": True}, "pixels is for norm 0, got norm 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message, backend):
    with pytest.raises(ValueError, match=f"fastadv::project: {message}"):
        ops.project(torch.zeros(2, 3), 1.0, **arguments)
