"""The CUDA kernel of cw_step_, run on the CPU, against the reference."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from fastadv import reference
from tests.emulation.harness import (
    ORDERS,
    Output,
    array,
    array_or_float,
    assert_same_bits,
    every_dtype,
    every_size,
    moved_by,
    name_of,
    radii,
    rows_for,
)
from tests.ops.inputs import ULP
from tests.ops.test_cw_step import cw_inputs

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class CwCase:
    """One way of calling cw_step."""

    numbers: str = "constant"  # c, weight and tau; see radii
    hinge: bool = False
    some_active: bool = False
    keeps: bool = False
    offsets: tuple[int, ...] = (0,) * 7  # of x_adv, w, m, v, x, grad and best
    bounds: tuple[float, float] = (0.0, 1.0)
    stretch: float = 0.0


CASES = {
    "plain": CwCase(),
    "hinge": CwCase(hinge=True, numbers="shared"),
    "per_sample": CwCase(numbers="per_sample", some_active=True, keeps=True),
    "per_sample_hinge": CwCase(numbers="per_sample", hinge=True, some_active=True, bounds=(-1.5, 2.0)),
    "stretched": CwCase(stretch=1.0, some_active=True, bounds=(-1.5, 2.0)),
    "shifted": CwCase(keeps=True, offsets=(1,) * 7),
    "shifted_apart": CwCase(keeps=True, offsets=(0, 1, 0, 3, 0, 2, 1), some_active=True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


class Step:
    """The inputs of a case, and what becomes of them."""

    def __init__(self, case: CwCase, cols: int, dtype: torch.dtype) -> None:
        rows = rows_for(cols)
        self.case, self.dtype = case, dtype
        self.inputs = cw_inputs((rows, cols), dtype, bounds=case.bounds)
        self.active = torch.arange(rows) % 3 != 1 if case.some_active else None
        self.better = torch.arange(rows) % 2 == 0 if case.keeps else None
        self.c, self.weight = (radii(case.numbers, value, rows, dtype) for value in (0.7, 1.0))
        self.tau = radii(case.numbers, 0.05, rows, dtype) if case.hinge else None

    def run(self, kernels: ModuleType) -> list[Tensor]:
        """x_adv, w, m, v, best and distance."""
        *offsets, of_best = self.case.offsets
        outputs = [Output(t, offset) for t, offset in zip(self.inputs[:4], offsets, strict=False)]
        for output, value in zip(outputs, self.inputs, strict=False):
            output.tensor.copy_(value)
        best = Output(self.inputs[0], of_best)
        best.tensor.zero_()
        x, grad = (moved_by(t, offset) for t, offset in zip(self.inputs[4:], offsets[4:], strict=True))
        distance = np.full(len(x), np.nan)
        kernels.cw_step(
            name_of(self.dtype),
            *(array(output.tensor) for output in outputs),
            array(x),
            array(grad),
            distance,
            array_or_float(self.c),
            array_or_float(self.weight),
            tau=None if self.tau is None else array_or_float(self.tau),
            active=None if self.active is None else self.active.numpy(),
            best=None if self.better is None else array(best.tensor),
            better=None if self.better is None else self.better.numpy(),
            lr=0.02,
            step=3,
            bounds=self.case.bounds,
            stretch=self.case.stretch,
        )
        return [*(output.checked() for output in (*outputs, best)), torch.from_numpy(distance)]

    def expected(self) -> list[Tensor]:
        """The same from the reference."""
        moved, best = [t.clone() for t in self.inputs], torch.zeros_like(self.inputs[0])
        distance = reference.cw_step_(
            *moved,
            c=self.c,
            weight=self.weight,
            tau=self.tau,
            lr=0.02,
            step=3,
            bounds=self.case.bounds,
            stretch=self.case.stretch,
            active=self.active,
            best=None if self.better is None else best,
            better=self.better,
        )
        return [*moved[:4], best, distance]


@every_case
@every_dtype
@every_size
def test_the_step_agrees_with_the_reference_in_every_order(
    kernels: ModuleType, cols: int, dtype: torch.dtype, case: CwCase
) -> None:
    step = Step(case, cols, dtype)
    results = step.run(kernels)
    for order in ORDERS[1:]:
        kernels.set_order(*order)
        for first, other in zip(results, step.run(kernels), strict=True):
            assert_same_bits(first, other)
    kernels.set_order(*ORDERS[0])
    expected = step.expected()
    unit = ULP[torch.float64 if dtype == torch.float64 else torch.float32]
    span = case.bounds[1] - case.bounds[0]
    for number, (actual, exact) in enumerate(zip(results[:5], expected, strict=False)):
        # A few roundings of the compute dtype (w is up to 7), and the neighbour in that of the samples.
        atol = 32 * unit + (span * ULP[dtype] / 2 if number in (0, 4) else 0)
        assert torch.allclose(actual.double(), exact.double(), rtol=16 * unit, atol=atol)
    # Images in half precision may be the neighbours of the reference's.
    assert torch.allclose(results[5], expected[5], rtol=0.05 if dtype.itemsize == 2 else 1e-5, atol=1e-5)


@every_dtype
@pytest.mark.parametrize("cols", [5, 1000, 20011])
def test_the_bits_of_a_step_depend_neither_on_batch_mates_nor_on_alignment(
    kernels: ModuleType, cols: int, dtype: torch.dtype
) -> None:
    step = Step(CwCase(keeps=True), cols, dtype)
    together, inputs, better = step.run(kernels), step.inputs, step.better
    assert better is not None
    for row in range(rows_for(cols)):
        step.inputs, step.better = [t[row : row + 1] for t in inputs], better[row : row + 1]
        step.case = CwCase(keeps=True, offsets=tuple((row + shift) % 4 for shift in range(7)))
        for alone, of_all in zip(step.run(kernels), together, strict=True):
            assert_same_bits(alone, of_all[row : row + 1])


@pytest.mark.parametrize(
    ("cols", "launches"),
    [
        (512, ["(update_rows_kernel<Op, kWarp>)"]),
        (513, ["(update_rows_kernel<Op, kThreads>)"]),
        (16384, ["(update_rows_kernel<Op, kThreads>)"]),
        (16385, ["(chunk_sums_kernel<Op, Op::kBlocks>)", "(add_chunks_kernel<double>)"]),
    ],
)
def test_each_tier_is_taken_for_its_sizes(kernels: ModuleType, cols: int, launches: list[str]) -> None:
    step = Step(CwCase(), cols, torch.float32)
    kernels.take_launched()
    step.run(kernels)
    assert kernels.take_launched() == launches


@pytest.mark.parametrize("shape", [(0, 7), (3, 0)])
def test_nothing_is_launched_for_empty_batches_and_empty_samples(
    kernels: ModuleType, shape: tuple[int, int]
) -> None:
    empty = np.empty(shape, np.float32)
    kernels.take_launched()
    kernels.cw_step("float32", *[empty] * 6, np.zeros(shape[0]), 1.0, 1.0)
    assert kernels.take_launched() == []
