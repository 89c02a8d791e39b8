"""The CUDA kernels' own source, run on the CPU, against the PyTorch reference."""

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from fastadv import reference
from tests.emulation.harness import (
    DTYPES,
    ORDERS,
    LoadModule,
    Output,
    array,
    array_or_float,
    assert_equal,
    assert_rounded_alike,
    assert_same_bits,
    every_dtype,
    every_norm,
    every_size,
    in_every_order,
    moved_by,
    name_of,
    radii,
    random_numbers,
    rows_for,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class StepCase:
    """One way of calling pgd_step."""

    numbers: str = "random"
    rule: str = "steepest"
    radius: str = "constant"
    bounds: tuple[float, float] | None = (0.0, 1.0)
    some_active: bool = False
    keeps: int | None = None  # the offset of best, where the iterates of better samples are kept
    in_place: bool = False
    offsets: tuple[int, int, int, int] = (0, 0, 0, 0)  # of out, x_adv, x, grad


STEP_CASES = {
    "plain": StepCase(),
    "gradient": StepCase(rule="gradient", radius="shared"),
    "per_sample": StepCase(radius="per_sample", some_active=True),
    "per_sample_gradient": StepCase(radius="per_sample", rule="gradient", some_active=True, bounds=None),
    "ties": StepCase(numbers="ties"),
    "tiny": StepCase(numbers="tiny"),
    "subnormal": StepCase(numbers="subnormal"),
    "huge": StepCase(numbers="huge"),
    "not_finite": StepCase(numbers="not_finite", bounds=None),
    "not_finite_gradient": StepCase(numbers="not_finite", rule="gradient"),
    "in_place": StepCase(in_place=True, radius="per_sample", some_active=True, offsets=(1, 1, 1, 1)),
    "keeps": StepCase(in_place=True, keeps=0),
    "keeps_shifted": StepCase(in_place=True, radius="per_sample", some_active=True, keeps=1),
    "shifted": StepCase(offsets=(1, 1, 1, 1)),
    "shifted_apart": StepCase(offsets=(0, 1, 0, 3), some_active=True),
}

F32, F64, F16, BF16 = DTYPES
GRADIENT_SCALES = {
    "tiny": {F32: 1e-30, F64: 1e-30, F16: 1e-6, BF16: 1e-30},
    "subnormal": {F32: 1e-44, F64: 1e-150, F16: 1e-7, BF16: 2e-40},  # whose squares float64 can still hold
    "huge": {F32: 3e37, F64: 1e150, F16: 1e4, BF16: 3e37},
}


class Step:
    """The inputs of a case, and what becomes of them."""

    def __init__(self, case: StepCase, norm: float, cols: int, dtype: torch.dtype) -> None:
        self.case, self.norm, self.dtype = case, norm, dtype
        rows = rows_for(cols)
        normal = random_numbers(cols, dtype)
        eps = 0.25 if norm == math.inf else 0.25 * math.sqrt(cols)
        x, grad = normal().sigmoid(), normal()
        x_adv = x + eps * normal() / (1 if norm == math.inf else math.sqrt(cols))
        if case.numbers == "ties":  # multiples of 1/8 meet the ball, the box and zero gradients exactly
            x, grad = (x * 8).round() / 8, grad.round().clamp(-1, 1)
            x_adv = x + 0.25 * normal().round().clamp(-1, 1)
        if case.numbers in GRADIENT_SCALES:
            grad *= GRADIENT_SCALES[case.numbers][dtype]
            grad[0] = 0
        if case.numbers == "not_finite":
            grad[0, cols // 2] = math.nan
            grad[1, 0] = -math.inf
            grad[2, -1] = math.inf
        if case.bounds is not None:
            x_adv = x_adv.clamp(*case.bounds)
        self.active = torch.arange(rows) % 3 != 1 if case.some_active else None
        if self.active is not None:
            x_adv[~self.active] = 100 * normal()[~self.active]  # which any step would change
        _, *offsets = case.offsets
        self.x_adv, self.x, self.grad = map(moved_by, (x_adv, x, grad), offsets)
        self.eps = radii(case.radius, eps, rows, dtype)
        self.step_size = radii(case.radius, 0.3 * eps, rows, dtype)

    def expected(self) -> Tensor:
        return reference.pgd_step(
            self.x_adv,
            self.x,
            self.grad,
            eps=self.eps,
            step_size=self.step_size,
            norm=self.norm,
            bounds=self.case.bounds,
            rule=self.case.rule,
            active=self.active,
        )

    def run(self, kernels: ModuleType) -> Tensor:
        out = Output(self.x_adv, self.case.offsets[0])
        if self.case.in_place:
            out.tensor.copy_(self.x_adv)
        better = torch.arange(len(self.x)) % 2 == 0
        best = None if self.case.keeps is None else Output(self.x_adv, self.case.keeps)
        if best is not None:
            best.tensor.zero_()
        kernels.pgd_step(
            dtype=name_of(self.dtype),
            norm=self.norm,
            out=array(out.tensor),
            x_adv=array(out.tensor if self.case.in_place else self.x_adv),
            x=array(self.x),
            grad=array(self.grad),
            eps=array_or_float(self.eps),
            step_size=array_or_float(self.step_size),
            active=None if self.active is None else self.active.numpy(),
            bounds=self.case.bounds or (-math.inf, math.inf),
            steepest=self.case.rule == "steepest",
            best=None if best is None else array(best.tensor),
            better=None if best is None else better.numpy(),
        )
        if best is not None:
            kept = torch.where(better[:, None], self.x_adv, torch.zeros_like(self.x_adv))
            assert_same_bits(best.checked(), kept)
        return out.checked()


@every_dtype
@every_size
@pytest.mark.parametrize("case", STEP_CASES.values(), ids=STEP_CASES)
def test_the_linf_pgd_step_has_the_references_bits(
    kernels: ModuleType, case: StepCase, cols: int, dtype: torch.dtype
) -> None:
    step = Step(case, math.inf, cols, dtype)
    assert_same_bits(in_every_order(kernels, lambda: step.run(kernels)), step.expected())


@every_dtype
@every_size
@pytest.mark.parametrize("case", STEP_CASES.values(), ids=STEP_CASES)
def test_the_l2_pgd_step_is_the_references(
    kernels: ModuleType, case: StepCase, cols: int, dtype: torch.dtype
) -> None:
    step = Step(case, 2.0, cols, dtype)
    actual, expected = in_every_order(kernels, lambda: step.run(kernels)), step.expected()
    x = step.x.double()
    assert_rounded_alike(actual, expected, (step.x_adv.double() - x).abs() + (expected.double() - x).abs())
    moved = torch.ones(len(x), dtype=torch.bool) if step.active is None else step.active
    distance = (actual.double() - x).norm(dim=1)
    assert (distance <= torch.as_tensor(step.eps, dtype=torch.float64) * (1 + 1e-15))[moved].all()
    assert_same_bits(actual[~moved], step.x_adv[~moved])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_l2_gradient_of_norm_1e_30_moves_the_sample_by_the_whole_step(
    kernels: ModuleType, dtype: torch.dtype
) -> None:
    step = Step(StepCase(numbers="tiny", bounds=None), 2.0, 1000, dtype)
    step.x_adv.copy_(step.x.zero_())
    assert 0 < step.grad[1].double().norm() < 1e-28
    distance = step.run(kernels).double().norm(dim=1)
    assert distance[0] == 0  # whose gradient is zero
    assert (
        (distance[1:] / step.step_size - 1).abs() <= torch.finfo(dtype).eps
    ).all()  # elements are rounded inwards


# project, steepest, random_in_ball


@dataclass(frozen=True)
class Case:
    """One way of calling an operator of one input."""

    radius: str = "constant"
    offsets: tuple[int, int] = (0, 0)  # of out and of the input


CASES = {
    "plain": Case(),
    "shared_shifted": Case(radius="shared", offsets=(1, 1)),
    "per_sample_shifted_apart": Case(radius="per_sample", offsets=(0, 1)),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def uneven(cols: int, dtype: torch.dtype) -> Tensor:
    """Samples of very different norms: zero, tiny, moderate and beyond any eps."""
    scale = torch.tensor([0, 1e-30, 0.01, 1, 50] * 4, dtype=torch.float64)
    return (random_numbers(cols, torch.float64)() * scale[: rows_for(cols), None]).to(dtype)


def run_unary(
    kernels: ModuleType, op: str, norm: float, samples: Tensor, case: Case, **arguments: object
) -> Tensor:
    placed = array(moved_by(samples, case.offsets[1]))

    def run() -> Tensor:
        out = Output(samples, case.offsets[0])
        name = name_of(samples.dtype)
        getattr(kernels, op)(name, norm, array(out.tensor), placed, **arguments)
        return out.checked()

    return in_every_order(kernels, run)


@every_dtype
@every_norm
@every_size
@every_case
def test_project_is_the_references(
    kernels: ModuleType, case: Case, cols: int, norm: float, dtype: torch.dtype
) -> None:
    delta = uneven(cols, dtype).flipud()  # so that short batches have samples beyond eps too
    eps = radii(case.radius, 0.7, len(delta), dtype)
    actual = run_unary(kernels, "project", norm, delta, case, eps=array_or_float(eps))
    expected = reference.project(delta, eps, norm)
    if norm == math.inf:
        assert_equal(actual, expected)  # torch.maximum(0.0, -0.0) may be either, which is eps 0 here
        return
    assert_rounded_alike(actual, expected, expected.abs())
    limit = torch.as_tensor(eps, dtype=torch.float64)
    assert (actual.double().norm(dim=1) <= limit * (1 + 1e-15)).all()
    inside = delta.double().norm(dim=1) <= limit
    assert_same_bits(actual[inside], delta[inside])


@every_dtype
@every_norm
@every_size
@pytest.mark.parametrize("offsets", [(0, 0), (1, 1), (0, 1)])
def test_steepest_is_the_references(
    kernels: ModuleType, offsets: tuple[int, int], cols: int, norm: float, dtype: torch.dtype
) -> None:
    grad = uneven(cols, dtype)
    grad[2, 0] = math.inf
    actual = run_unary(kernels, "steepest", norm, grad, Case(offsets=offsets))
    expected = reference.steepest(grad, norm)
    if norm == math.inf:
        assert_same_bits(actual, expected)
    else:
        assert_rounded_alike(actual, expected, expected.abs())


@every_dtype
@every_norm
@every_size
@every_case
def test_random_in_ball_is_the_references(
    kernels: ModuleType, case: Case, cols: int, norm: float, dtype: torch.dtype
) -> None:
    x = random_numbers(cols, dtype)().sigmoid()
    eps = radii(case.radius, 0.3 if norm == math.inf else 0.3 * math.sqrt(cols), len(x), dtype)
    seed = torch.tensor([-123456789012345, 7 + cols])
    ids = None if case.radius == "constant" else torch.arange(len(x)) * 3_000_000_019 + 5
    bounds = (0.0, 1.0) if case.radius == "constant" else None
    actual = run_unary(
        kernels,
        "random_in_ball",
        norm,
        x,
        case,
        eps=array_or_float(eps),
        seed=seed.numpy(),
        ids=None if ids is None else ids.numpy(),
        bounds=bounds or (-math.inf, math.inf),
    )
    expected = reference.random_in_ball(x, eps, norm, bounds=bounds, seed=seed, ids=ids)
    if norm == math.inf:
        assert_same_bits(actual, expected)
    else:
        # The kernels' own logarithm, sine and cosine have float32's accuracy next to their pair's length, in
        # float64 too. Beyond that the neighbour in the dtype, because a last digit may tip the rounding.
        lengths = (expected.double() - x.double()).abs().amax(1, keepdim=True)
        ulp = torch.nextafter(expected.abs(), torch.full_like(expected, math.inf)) - expected.abs()
        difference = (actual.double() - expected.double()).abs()
        assert (difference <= 1e-6 * lengths + ulp.double()).all()


# shapes, tiers and determinism


@every_norm
@pytest.mark.parametrize("shape", [(0, 7), (3, 0), (0, 0)])
def test_nothing_is_launched_for_empty_batches_and_empty_samples(
    kernels: ModuleType, shape: tuple[int, int], norm: float
) -> None:
    empty = np.empty(shape, np.float32)
    kernels.take_launched()
    kernels.pgd_step("float32", norm, empty, empty, empty, empty, eps=1.0, step_size=1.0)
    kernels.project("float32", norm, empty, empty, eps=1.0)
    kernels.steepest("float32", norm, empty, empty)
    kernels.random_in_ball("float32", norm, empty, empty, eps=1.0, seed=np.zeros(2, np.int64))
    assert kernels.take_launched() == []


@pytest.mark.parametrize(
    ("cols", "launches"),
    [
        (512, ["(row_kernel<Op, kWarp>)"]),
        (513, ["(row_kernel<Op, kThreads>)"]),
        (16384, ["(row_kernel<Op, kThreads>)"]),
        (16385, ["(chunk_sums_kernel<Op>)", "(chunk_write_kernel<Op>)"]),
    ],
)
def test_each_l2_tier_is_taken_for_its_sizes_and_right_at_their_ends(
    kernels: ModuleType, cols: int, launches: list[str]
) -> None:
    step = Step(StepCase(), 2.0, cols, torch.float32)
    kernels.take_launched()
    actual, expected = step.run(kernels), step.expected()
    assert kernels.take_launched() == launches
    x = step.x.double()
    assert_rounded_alike(actual, expected, (step.x_adv.double() - x).abs() + (expected.double() - x).abs())


def test_a_sample_of_more_chunks_than_a_block_has_threads_is_projected_right(kernels: ModuleType) -> None:
    delta = torch.randn(1, 257 * 8192 + 3, generator=torch.Generator().manual_seed(0))
    out = Output(delta)
    kernels.project("float32", 2.0, array(out.tensor), array(delta), eps=3.0)
    expected = reference.project(delta, 3.0, 2.0)
    assert_rounded_alike(out.checked(), expected, expected.abs())


@every_dtype
@pytest.mark.parametrize("cols", [5, 1000, 20011])
def test_the_bits_of_an_l2_step_depend_neither_on_batch_mates_nor_on_alignment(
    kernels: ModuleType, cols: int, dtype: torch.dtype
) -> None:
    step = Step(StepCase(), 2.0, cols, dtype)
    together = step.run(kernels)
    inputs = step.x_adv, step.x, step.grad
    for row in range(rows_for(cols)):
        step.x_adv, step.x, step.grad = (moved_by(each[row : row + 1], row % 4) for each in inputs)
        assert_same_bits(step.run(kernels), together[row : row + 1])


def test_a_barrier_missing_from_the_block_reduction_is_caught(load_module: LoadModule) -> None:
    kernels = load_module("kernel_module", "missing_barrier")
    delta = torch.randn(3, 4097, generator=torch.Generator().manual_seed(0))
    expected = reference.project(delta, 0.7, 2.0)
    caught = []
    for order in ORDERS:
        kernels.set_order(*order)
        out = Output(delta)
        kernels.project("float32", 2.0, array(out.tensor), array(delta), eps=0.7)
        try:
            assert_rounded_alike(out.checked(), expected, expected.abs())
        except AssertionError as error:
            caught.append(str(error))
    assert caught
