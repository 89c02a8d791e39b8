"""The kernels for the norms 0, 1 and 1 < p < inf, and projections on ball and box, against the reference."""

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from fastadv import reference
from tests.emulation.harness import (
    Output,
    array,
    array_or_float,
    assert_equal,
    assert_same_bits,
    every_dtype,
    in_every_order,
    moved_by,
    name_of,
    radii,
    random_numbers,
    rows_for,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# Both sizes of blocks; on both sides of a warp and of a block.
every_size = pytest.mark.parametrize("cols", [1, 2, 33, 129, 1000, 2049])
every_lp = pytest.mark.parametrize("norm", [1.0, 1.01, 1.5, 2.0, 3.0, 7.0])
BOX = (0.0, 1.0)


def lp_norms(samples: Tensor, norm: float) -> Tensor:
    """[B] lp norms in float64, for norm 0 how many elements are not 0."""
    return torch.linalg.vector_norm(samples.double().flatten(1), norm, dim=1)


def assert_near(actual: Tensor, expected: Tensor, lengths: Tensor, coarse: bool = False) -> None:
    """As near as the slack below the ball and a rounding leave it, next to each sample's largest element.

    In the box the reference rounds each element's room to the dtype before it projects, and what one element
    loses another may gain: `coarse` allows that rounding too.
    """
    compute = torch.float64 if actual.dtype == torch.float64 else torch.float32
    relative = 4 * reference.SLACK[compute] + (torch.finfo(actual.dtype).eps if coarse else 0)
    wide = expected.double()
    up = torch.nextafter(expected.abs(), torch.full_like(expected, math.inf))
    largest = lengths.double().abs().amax(1, keepdim=True)
    excess = (actual.double() - wide).abs() - (up.double() - wide.abs()) - relative * largest
    assert (excess <= 0).all(), f"beyond the tolerance by up to {excess.max()}"


def radius_of(norm: float, cols: int) -> float:
    """One that most normal samples are outside of, and some of their elements."""
    return float(max(1, cols // 3)) if norm == 0 else 0.4 * cols ** (1 / norm)


def limits(eps: Tensor | float, dtype: torch.dtype) -> Tensor:
    """The radii as the kernel gets them: in the compute dtype."""
    return torch.as_tensor(eps, dtype=torch.float64 if dtype == torch.float64 else torch.float32).double()


def run_project(
    kernels: ModuleType,
    delta: Tensor,
    eps: Tensor | float,
    norm: float,
    x: Tensor | None,
    **arguments: object,
) -> Tensor:
    def run() -> Tensor:
        out = Output(delta, 1)
        kernels.project(
            name_of(delta.dtype),
            norm,
            array(out.tensor),
            array(delta),
            array_or_float(eps),
            x=None if x is None else array(x),
            bounds=(-math.inf, math.inf) if x is None else BOX,
            **arguments,
        )
        return out.checked()

    return in_every_order(kernels, run)


@every_dtype
@every_size
@every_lp
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("radius", ["constant", "per_sample"])
def test_the_projection_is_the_references_and_in_ball_and_box(
    kernels: ModuleType, radius: str, boxed: bool, norm: float, cols: int, dtype: torch.dtype
) -> None:
    if norm == 2 and not boxed:
        pytest.skip("which has a kernel of its own")
    normal = random_numbers(cols, dtype)
    delta, x = normal(), normal().sigmoid() if boxed else None
    delta[0] *= 0.01  # inside the ball
    eps = radii(radius, radius_of(norm, cols), len(delta), dtype)
    actual = run_project(kernels, delta, eps, norm, x)
    expected = reference.project(delta, eps, norm, x=x, bounds=BOX if boxed else None)
    # In the box a few elements may make up for what the reference aims below the whole radius.
    lengths = 4 * limits(eps, dtype).expand(len(delta))[:, None] if boxed else expected
    assert_near(actual, expected, lengths, coarse=boxed)
    assert (lp_norms(actual, norm) <= limits(eps, dtype) * (1 + 1e-14)).all()
    assert_equal(run_project(kernels, actual, eps, norm, x), actual)
    if x is not None:
        moved = x.double() + actual.double()
        assert (moved >= BOX[0]).all()
        assert (moved <= BOX[1]).all()


@every_dtype
@every_size
def test_the_linf_projection_in_the_box_is_the_references(
    kernels: ModuleType, cols: int, dtype: torch.dtype
) -> None:
    normal = random_numbers(cols, dtype)
    delta, x = normal(), normal().sigmoid()
    eps = radii("per_sample", 0.3, len(delta), dtype)
    actual = run_project(kernels, delta, eps, math.inf, x)
    assert_equal(actual, reference.project(delta, eps, math.inf, x=x, bounds=BOX))


@every_dtype
@every_size
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("numbers", ["normal", "ties", "zeros"])
def test_the_l0_projection_keeps_the_references_elements(
    kernels: ModuleType, numbers: str, boxed: bool, cols: int, dtype: torch.dtype
) -> None:
    normal = random_numbers(cols, dtype)
    delta, x = normal(), normal().sigmoid() if boxed else None
    if numbers == "ties":
        delta = delta.round()
        x = None if x is None else (4 * x).round() / 4
    if numbers == "zeros":
        delta[:, 1::2] = 0
    eps = radii("per_sample", cols / 2, len(delta), dtype)
    actual = run_project(kernels, delta, eps, 0.0, x)
    assert_equal(actual, reference.project(delta, eps, 0, x=x, bounds=BOX if boxed else None))
    assert (lp_norms(actual, 0) <= torch.as_tensor(eps).floor()).all()


@every_dtype
@pytest.mark.parametrize("boxed", [False, True])
def test_the_l0_projection_keeps_whole_pixels(kernels: ModuleType, boxed: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(3, 3, 7, 19, generator=generator).to(dtype)
    x = torch.rand(3, 3, 7, 19, generator=generator).to(dtype) if boxed else None
    expected = reference.project(delta, 20.0, 0, x=x, bounds=BOX if boxed else None, pixels=True)
    flat = None if x is None else x.flatten(1)
    actual = run_project(kernels, delta.flatten(1), 20.0, 0.0, flat, channels=3)
    assert_equal(actual, expected.flatten(1))
    pixels = (actual.unflatten(1, (3, -1)) != 0).any(1).sum(1)
    assert (pixels == 20).all()


@pytest.mark.parametrize("norm", [1.0, 1.5, 7.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_projects_to_nan_and_its_batch_mates_do_not(
    kernels: ModuleType, value: float, norm: float
) -> None:
    delta = random_numbers(100, torch.float32)()
    delta[1, 50] = value
    out = Output(delta)
    kernels.project("float32", norm, array(out.tensor), array(delta), 1.0)
    assert out.guarded()[1].isnan().all()
    assert_near(out.tensor[::2], reference.project(delta[::2], 1.0, norm), delta[::2])


@every_dtype
@every_size
@pytest.mark.parametrize("norm", [1.0, 1.01, 1.5, 3.0, 7.0])
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_the_steepest_direction_is_the_references(
    kernels: ModuleType, scale: float, norm: float, cols: int, dtype: torch.dtype
) -> None:
    grad = random_numbers(cols, dtype)() * (1e-6 if dtype == torch.float16 and scale != 1 else scale)
    grad[0] = 0
    grad[1, -1] = math.inf
    grad[2] = grad[2].sign()  # ties

    def run() -> Tensor:
        out = Output(grad, 1)
        kernels.steepest(name_of(dtype), norm, array(out.tensor), array(grad))
        return out.checked()

    expected = reference.steepest(grad, norm)
    assert_near(in_every_order(kernels, run), expected, expected)


@every_dtype
@every_size
@pytest.mark.parametrize("norm", [1.0, 1.5, 3.0, 7.0])
def test_random_points_are_the_references(
    kernels: ModuleType, norm: float, cols: int, dtype: torch.dtype
) -> None:
    x = random_numbers(cols, dtype)().sigmoid()
    eps = radii("per_sample", radius_of(norm, cols), len(x), dtype)
    seed = torch.tensor([-123456789012345, 7 + cols])
    ids = torch.arange(len(x)) * 3_000_000_019 + 5

    def run() -> Tensor:
        out = Output(x, 1)
        name, numbers = name_of(dtype), {"seed": seed.numpy(), "ids": ids.numpy()}
        kernels.random_in_ball(name, norm, array(out.tensor), array(x), array_or_float(eps), **numbers)
        return out.checked()

    expected = reference.random_in_ball(x, eps, norm, bounds=None, seed=seed, ids=ids)
    assert_near(in_every_order(kernels, run), expected, torch.cat((expected, x), 1))


STEPS = {
    "plain": {},
    "gradient": {"rule": "gradient"},
    "spread": {"spread": 5},
    "ties": {"ties": True},
    "not_finite": {"not_finite": True},
    "per_sample": {"radius": "per_sample", "some_active": True, "keeps": True},
    "in_place": {"in_place": True, "some_active": True, "keeps": True, "offset": 1},
}


@every_dtype
@pytest.mark.parametrize("cols", [1, 33, 1000, 2049])
@pytest.mark.parametrize("norm", [0.0, 1.0, 1.5, 7.0])
@pytest.mark.parametrize("case", STEPS.values(), ids=STEPS)
def test_the_pgd_step_is_the_references(
    kernels: ModuleType, case: dict[str, object], norm: float, cols: int, dtype: torch.dtype
) -> None:
    if "spread" in case and norm != 1:
        pytest.skip("spread is for norm 1")
    normal, rows = random_numbers(cols, dtype), rows_for(cols)
    x, grad = normal().sigmoid(), normal()
    x_adv = (x + 0.2 * normal()).clamp(*BOX)
    if "ties" in case:
        x, grad, x_adv = (8 * x).round() / 8, grad.round(), (4 * x_adv).round() / 4
    if "not_finite" in case:
        grad[0, 0], grad[1, -1] = math.nan, math.inf
    eps = radii(str(case.get("radius", "constant")), radius_of(norm, cols) / 4, rows, dtype)
    step_size = radii(str(case.get("radius", "shared")), max(0.3, radius_of(norm, cols) / 8), rows, dtype)
    active = torch.arange(rows) % 3 != 1 if "some_active" in case else None
    better = torch.arange(rows) % 2 == 0
    rule, spread = str(case.get("rule", "steepest")), int(str(case.get("spread", 1)))
    offset = int(str(case.get("offset", 0)))
    x_adv, x, grad = (moved_by(t, offset) for t in (x_adv, x, grad))

    def run() -> Tensor:
        out, best = Output(x_adv, offset), Output(x_adv)
        out.tensor.copy_(x_adv)
        best.tensor.zero_()
        kernels.pgd_step(
            dtype=name_of(dtype),
            norm=norm,
            out=array(out.tensor),
            x_adv=array(out.tensor if "in_place" in case else x_adv),
            x=array(x),
            grad=array(grad),
            eps=array_or_float(eps),
            step_size=array_or_float(step_size),
            active=None if active is None else active.numpy(),
            bounds=BOX,
            steepest=rule == "steepest",
            spread=spread,
            best=array(best.tensor) if "keeps" in case else None,
            better=better.numpy() if "keeps" in case else None,
        )
        if "keeps" in case:
            assert_same_bits(best.checked(), torch.where(better[:, None], x_adv, torch.zeros_like(x_adv)))
        return out.checked()

    actual = in_every_order(kernels, run)
    expected = reference.pgd_step(
        x_adv,
        x,
        grad,
        eps=eps,
        step_size=step_size,
        norm=norm,
        bounds=BOX,
        rule=rule,
        active=active,
        spread=spread,
    )
    assert_near(actual, expected, torch.ones_like(expected), coarse=True)
    moved = torch.ones(rows, dtype=torch.bool) if active is None else active
    assert_same_bits(actual[~moved], x_adv[~moved])
    limit = limits(eps, dtype).floor() if norm == 0 else limits(eps, dtype)
    distance = lp_norms(actual.double() - x.double(), norm)
    assert (distance <= limit * (1 + 1e-14))[moved].all()


@every_dtype
@pytest.mark.parametrize("norm", [0.0, 1.0, 1.5, 7.0])
def test_the_bits_of_a_projection_depend_neither_on_batch_mates_nor_on_alignment(
    kernels: ModuleType, norm: float, dtype: torch.dtype
) -> None:
    delta = random_numbers(1000, dtype)()
    eps = radius_of(norm, 1000)
    together = run_project(kernels, delta, eps, norm, None)
    for row in range(len(delta)):
        alone = run_project(kernels, moved_by(delta[row : row + 1], row % 4), eps, norm, None)
        assert_same_bits(alone, together[row : row + 1])
