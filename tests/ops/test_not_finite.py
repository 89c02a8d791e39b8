"""What is not finite, and radii that are none: one meaning in every norm, whichever backend runs."""

import math

import pytest
import torch

from fastadv import ops

NORMS = [0, 1, 1.5, 2, 3, 7, math.inf]
BALLS = [norm for norm in NORMS if norm not in (0, math.inf)]
BAD = [math.nan, math.inf, -math.inf]
BOXES = [None, (0.0, 1.0)]

every_norm = pytest.mark.parametrize("norm", NORMS)
every_box = pytest.mark.parametrize("bounds", BOXES)
every_bad_number = pytest.mark.parametrize("bad", BAD)


def samples(device, dtype=torch.float32, rows=3):
    """delta, and x inside the box: [rows, 97]."""
    generator = torch.Generator().manual_seed(0)
    delta, x = torch.randn(rows, 97, generator=generator), torch.rand(rows, 97, generator=generator)
    return delta.to(device, dtype), x.to(device, dtype)


def within(x, bounds):
    """The keywords with which `project` knows of the box."""
    return {} if bounds is None else {"x": x, "bounds": bounds}


def same(actual, expected):
    """Whether the numbers are equal; a NaN equals a NaN."""
    return torch.equal(actual.nan_to_num(nan=-99), expected.nan_to_num(nan=-99))


@every_bad_number
@every_box
@pytest.mark.parametrize("eps", [0.0, 2.0, 1e6, math.inf])
@pytest.mark.parametrize("norm", BALLS)
def test_a_sample_that_is_not_finite_projects_to_nan_and_its_batch_mates_do_not(
    norm, eps, bounds, bad, device, backend
):
    delta, x = samples(device)
    expected = ops.project(delta, eps, norm, **within(x, bounds))
    delta[1, 5] = bad
    out = ops.project(delta, eps, norm, **within(x, bounds))
    assert out[1].isnan().all()
    assert torch.equal(out[::2], expected[::2])


@every_box
@pytest.mark.parametrize("eps", [0.0, 0.3, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_for_norm_inf_a_nan_stays_one_and_an_infinity_goes_to_the_sphere_or_the_face(
    dtype, eps, bounds, device, backend
):
    delta, x = samples(device, dtype)
    expected = ops.project(delta, eps, math.inf, **within(x, bounds))
    delta[1, 5], delta[1, 6], delta[1, 7] = math.nan, math.inf, -math.inf
    out = ops.project(delta, eps, math.inf, **within(x, bounds))
    assert out[1, 5].isnan()
    largest = torch.finfo(dtype).max
    finite = torch.tensor([largest, -largest], dtype=dtype, device=device).expand(3, 2)
    far = ops.project(finite, eps, math.inf, **within(x[:, 6:8], bounds))
    assert torch.equal(out[1, 6:8], far[1] if bounds or eps < math.inf else finite[1] * math.inf)
    expected[1, 5:8] = out[1, 5:8]
    assert same(out, expected)


@every_box
@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1.0, 3.0, 97.0, math.inf])
def test_for_norm_0_a_nan_is_not_kept_however_many_are(eps, pixels, bounds, device, backend):
    delta, x = (t.reshape(3, 1, 97) if pixels else t for t in samples(device))
    delta.view(3, 97)[1, 5], delta.view(3, 97)[1, 6] = math.nan, 0
    out = ops.project(delta, eps, 0, pixels=pixels, **within(x, bounds))
    delta.view(3, 97)[1, 5] = 0
    assert torch.equal(out, ops.project(delta, eps, 0, pixels=pixels, **within(x, bounds)))


def test_for_norm_0_a_nan_in_a_pixel_that_is_kept_becomes_0(device, backend):
    delta = torch.tensor([[[5.0, 1.0], [math.nan, 2.0]]], device=device)
    assert torch.equal(
        ops.project(delta, 1.0, 0, pixels=True), torch.tensor([[[5.0, 0.0], [0.0, 0.0]]], device=device)
    )


@every_norm
def test_an_element_whose_x_is_a_nan_has_no_room(norm, device, backend):
    delta, x = samples(device)
    x[1, 5] = math.nan
    out = ops.project(delta, 4.0, norm, x=x, bounds=(0.0, 1.0))
    assert out[1, 5] == 0
    assert out.isfinite().all()


@every_norm
@every_box
def test_a_negative_radius_counts_as_0_and_a_nan_gives_nan(norm, bounds, device, backend):
    delta, x = samples(device, rows=5)
    eps = torch.tensor([4.0, -1.0, math.nan, -math.inf, 4.0], device=device)
    out = ops.project(delta, eps, norm, **within(x, bounds))
    assert (out[[1, 3]] == 0).all()
    assert out[2].isnan().all()
    assert torch.equal(out[::4], ops.project(delta[::4], 4.0, norm, **within(x[::4], bounds)))
    shared = ops.project(delta, torch.tensor(-1.0, device=device), norm, **within(x, bounds))
    assert (shared == 0).all()


@every_norm
@every_box
@pytest.mark.parametrize("rule", ["steepest", "gradient"])
def test_a_step_with_a_negative_radius_ends_at_x_and_one_with_a_nan_is_a_nan(
    rule, norm, bounds, device, backend
):
    grad, x = samples(device, rows=5)
    x_adv = (x + 0.1 * grad).clamp(0, 1)
    eps = torch.tensor([2.0, -1.0, math.nan, -math.inf, 2.0], device=device)
    arguments = {"step_size": 0.5, "norm": norm, "bounds": bounds, "rule": rule}
    out = ops.pgd_step(x_adv, x, grad, eps=eps, **arguments)
    assert torch.equal(out[[1, 3]], x[[1, 3]])
    assert out[2].isnan().all()
    expected = ops.pgd_step(x_adv[::4], x[::4], grad[::4], eps=2.0, **arguments)
    assert torch.equal(out[::4], expected)


@every_norm
@every_box
@pytest.mark.parametrize("rule", ["steepest", "gradient"])
def test_a_step_size_that_is_negative_or_a_nan_moves_nothing(rule, norm, bounds, device, backend):
    grad, x = samples(device, rows=4)
    x_adv = (x + 0.1 * grad).clamp(0, 1)
    step_size = torch.tensor([0.5, -0.5, math.nan, -math.inf], device=device)
    arguments = {"eps": 2.0, "norm": norm, "bounds": bounds, "rule": rule}
    out = ops.pgd_step(x_adv, x, grad, step_size=step_size, **arguments)
    still = ops.pgd_step(x_adv, x, grad, step_size=0.0, **arguments)
    assert torch.equal(out[1:], still[1:])
    assert not torch.equal(out[0], still[0])


@every_norm
@every_box
@pytest.mark.parametrize("rule", ["steepest", "gradient"])
@pytest.mark.parametrize("where", ["x", "x_adv"])
def test_a_nan_in_a_steps_samples_is_seen_in_its_result(where, rule, norm, bounds, device, backend):
    grad, x = samples(device)
    x_adv = (x + 0.1 * grad).clamp(0, 1)
    arguments = {"eps": 2.0, "step_size": 0.1, "norm": norm, "bounds": bounds, "rule": rule}
    expected = ops.pgd_step(x_adv, x, grad, **arguments)
    {"x": x, "x_adv": x_adv}[where][1, 5] = math.nan
    out = ops.pgd_step(x_adv, x, grad, **arguments)
    assert torch.equal(out[::2], expected[::2])
    if norm == 0 and where == "x_adv":
        assert out[1, 5] == x[1, 5]  # norm 0 does not keep it
        assert out[1].isfinite().all()
    elif norm in (0, math.inf):
        assert out[1, 5].isnan()
        assert out[1].isnan().sum() == 1
    else:
        assert out[1].isnan().all()


@pytest.mark.parametrize("norm", NORMS[1:])
def test_a_random_point_with_a_negative_radius_is_x_and_one_of_a_nan_is_a_nan(norm, device, backend):
    _, x = samples(device, rows=4)
    x[3, 5] = math.nan
    eps = torch.tensor([-1.0, math.nan, -math.inf, 0.1], device=device)
    out = ops.random_in_ball(x, eps, norm, seed=1)
    assert torch.equal(out[[0, 2]], x[[0, 2]])
    assert out[1].isnan().all()
    assert out[3].isnan().sum() == 1
    assert out[3, 5].isnan()


@pytest.mark.parametrize("name", ["c", "weight", "tau"])
def test_negative_numbers_count_as_0_in_the_search_for_the_smallest_perturbation(name, device, backend):
    grad, x = samples(device)

    def images(value):
        x_adv, state = x.clone(), [torch.zeros_like(x) for _ in range(3)]
        numbers = {"c": 1.0, "weight": 1.0, "tau": 0.0} | {name: torch.tensor(value, device=device)}
        distance = ops.cw_step_(x_adv, *state, x, grad, lr=0.1, step=1, **numbers)
        return x_adv, distance

    for actual, expected in zip(images(-1.0), images(0.0), strict=True):
        assert torch.equal(actual, expected)
