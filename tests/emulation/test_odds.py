"""The source of the noise and statistics kernels, run on the CPU, against the reference."""

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from fastadv import reference
from tests.emulation.harness import (
    Output,
    array,
    assert_same_bits,
    every_dtype,
    in_every_order,
    moved_by,
    name_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SEED = torch.tensor([2**61 + 7, 5])


@every_dtype
@pytest.mark.parametrize("kind", ["normal", "uniform", "sign"])
@pytest.mark.parametrize(
    ("cols", "offset"), [(1, 0), (3, 0), (4, 0), (64, 0), (64, 1), (131, 2), (1028, 0), (2051, 3)]
)
def test_noise_is_the_references(
    kernels: ModuleType, cols: int, offset: int, kind: str, dtype: torch.dtype
) -> None:
    """Bit for bit where no logarithm is taken; packs, single elements, and memory off 16-byte boundaries."""
    x = torch.rand(3, cols, generator=torch.Generator().manual_seed(cols), dtype=torch.float64).to(dtype)
    ids = torch.tensor([5, 2**40, 1])
    x = moved_by(x, offset)

    def run() -> Tensor:
        out = Output(torch.empty(4 * 3, cols, dtype=dtype), offset)
        arguments = (array(out.tensor), array(x), 7, 0.25, SEED.numpy(), ids.numpy(), (0.1, 0.9))
        kernels.add_noise(name_of(dtype), kind, *arguments)
        return out.checked()

    expected = reference.add_noise(
        x, 4, kind=kind, scale=0.25, bounds=(0.1, 0.9), seed=SEED, ids=ids, first_draw=7
    ).flatten(0, 1)
    actual = in_every_order(kernels, run)
    if kind == "normal":
        ulp = max(torch.finfo(dtype).eps, 2.5e-7)
        assert torch.allclose(actual.double(), expected.double(), rtol=0, atol=ulp)
    else:
        assert_same_bits(actual, expected)


@every_dtype
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    ("draws", "rows", "classes"), [(1, 1, 2), (5, 9, 10), (3, 2, 33), (4, 3, 100), (0, 2, 5)]
)
def test_moments_have_the_references_bits(
    kernels: ModuleType, draws: int, rows: int, classes: int, earlier: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(classes)
    clean = torch.randn(rows, classes, generator=generator, dtype=torch.float64).to(dtype)
    clean[0, 1] = clean[0, 0] = clean[0].max() + 1  # of equal logits the first is predicted
    noisy = (clean + torch.randn(draws, rows, classes, generator=generator)).to(dtype)
    sums = (torch.randn(rows, classes, generator=generator, dtype=torch.float64),) * 2 if earlier else None

    def run() -> Tensor:
        total, squares = (Output(torch.empty(rows, classes, dtype=torch.float64)) for _ in range(2))
        before = [array(value) for value in sums] if sums else [None, None]
        logits = (array(clean), array(noisy.reshape(draws * rows, classes)))
        kernels.gap_moments(name_of(dtype), array(total.tensor), array(squares.tensor), *before, *logits)
        return torch.stack((total.checked(), squares.checked()))

    expected = torch.stack(reference.gap_moments(clean, noisy, sums))
    assert torch.equal(in_every_order(kernels, run), expected)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(("kinds", "rows", "classes"), [(1, 1, 2), (3, 9, 10), (2, 3, 33), (1, 2, 100)])
def test_scores_have_the_references_bits(
    kernels: ModuleType, kinds: int, rows: int, classes: int, two_sided: bool
) -> None:
    generator = torch.Generator().manual_seed(classes)
    gaps = torch.randn(kinds, rows, classes, generator=generator, dtype=torch.float64)
    mean = torch.randn(kinds, classes, classes, generator=generator, dtype=torch.float64)
    std = torch.rand(kinds, classes, classes, generator=generator, dtype=torch.float64)
    predicted = torch.randint(classes, (rows,), generator=generator)
    std[:, predicted[-1]] = math.nan  # nothing is known of this class
    towards = torch.empty(rows, dtype=torch.int64)

    def run() -> Tensor:
        score = Output(torch.empty(rows, dtype=torch.float64))
        arguments = [array(value) for value in (gaps, predicted, mean, std)]
        kernels.odds_score(array(score.tensor), array(towards.fill_(-1)), *arguments, two_sided)
        return score.checked()

    expected = reference.odds_score(gaps, predicted, mean, std, two_sided=two_sided)
    assert torch.equal(in_every_order(kernels, run), expected[0])
    assert torch.equal(towards, expected[1])
