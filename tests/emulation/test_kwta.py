"""The source of the k-WTA kernels, run on the CPU in every tier, against a stable sort."""

import itertools
import math
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.emulation.harness import (
    DTYPES,
    ORDERS,
    LoadModule,
    Output,
    array,
    bits,
    every_dtype,
    moved_by,
)

H200 = (227 << 10, 132, 8)  # shared bytes per block, multiprocessors, largest cluster
ONE_CLUSTER_OF_2 = (227 << 10, 132, 2)
TIERS = {
    "warp": [1, 2, 31, 33, 256, 257, 509],
    "block": [1, 33, 1000, 4099],
    "cluster": [1, 33, 1000, 4099],
    "global": [1, 33, 1000, 16384, 16387],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small PyTorch's threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def kernels(load_module: LoadModule) -> ModuleType:
    return load_module("kernel_module", "plain")


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def nans(dtype: torch.dtype) -> Tensor:
    """NaN of other bits than torch.nan, which the memory is poisoned with."""
    nan = torch.tensor([math.nan], dtype=dtype)
    width = nan.element_size()
    return (nan.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[width]) + 1).view(dtype)


def special(numbers: Tensor) -> Tensor:
    """A few NaN and infinities, and many zeros of both signs."""
    kind = (numbers.double() * 1e4).long() % 16
    numbers = torch.where(kind < 3, torch.tensor(-0.0, dtype=numbers.dtype), numbers)
    numbers = torch.where((kind >= 3) & (kind < 6), torch.tensor(0.0, dtype=numbers.dtype), numbers)
    numbers = torch.where(kind == 6, torch.tensor(math.inf, dtype=numbers.dtype), numbers)
    numbers = torch.where(kind == 7, torch.tensor(-math.inf, dtype=numbers.dtype), numbers)
    return torch.where(kind == 8, nans(numbers.dtype), numbers)


DATA: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda numbers: numbers,
    "heavy_ties": lambda numbers: numbers.round(),
    "all_equal": lambda numbers: torch.full_like(numbers, -1.5),
    "all_negative": lambda numbers: -numbers.abs() - 1,
    "relu": lambda numbers: numbers.relu(),
    "one_bin": lambda numbers: 1 + numbers.abs() / 64,  # which more share than any list holds
    "special": special,
    "only_nan": lambda numbers: nans(numbers.dtype).expand_as(numbers).clone(),
}


def numbers_of(data: str, rows: int, cols: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(cols)
    return DATA[data](torch.randn(rows, cols, generator=generator, dtype=torch.float64).to(dtype))


def winners_by_sorting(x: Tensor, k: int, lowest_index: bool) -> Tensor:
    """Bool [rows, cols]: the definition."""
    ordered, index = (x.float() if x.element_size() == 2 else x).sort(dim=1, descending=True, stable=True)
    wins = torch.zeros(x.shape, dtype=torch.bool)
    if lowest_index:
        return wins.scatter_(1, index[:, :k], True)
    last = ordered[:, k - 1 : k]
    keeps = (ordered >= last) | ordered.isnan()
    return wins.scatter_(1, index, keeps)


def words_of(wins: Tensor) -> Tensor:
    """int32 [rows, ceil(cols / 32)]: bit i % 32 of word i / 32 is element i."""
    packed = np.packbits(np.pad(wins.numpy(), ((0, 0), (0, -wins.shape[1] % 32))), axis=1, bitorder="little")
    return torch.from_numpy(packed.view(np.int32))


def run(
    kernels: ModuleType,
    x: Tensor,
    k: int,
    lowest_index: bool,
    tier: str,
    limits: tuple[int, int, int] = H200,
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Output and words of winners, `offset` elements beyond a 16-byte boundary."""
    out = Output(x, offset)
    words = Output(torch.empty(len(x), (x.shape[1] + 31) // 32), offset % 2)
    kernels.kwta(
        name_of(x.dtype),
        array(out.tensor),
        array(x),
        words.tensor.numpy().view(np.uint32),
        k=k,
        lowest_index=lowest_index,
        tier=tier,
        limits=limits,
    )
    return out.guarded(), words.guarded().view(torch.int32)


def assert_winners(x: Tensor, k: int, lowest_index: bool, result: tuple[Tensor, Tensor]) -> None:
    wins = winners_by_sorting(x, k, lowest_index)
    out, words = result
    assert torch.equal(words, words_of(wins)), f"other winners than by sorting, k={k}, cols={x.shape[1]}"
    assert torch.equal(bits(out), bits(torch.where(wins, x, torch.zeros_like(x))))


def counts_of_winners(cols: int) -> list[int]:
    return sorted({1, max(1, cols // 10), (cols + 1) // 2, cols})


@every_dtype
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("tier", TIERS)
def test_the_winners_are_those_of_a_stable_sort(
    kernels: ModuleType, tier: str, data: str, dtype: torch.dtype
) -> None:
    orders = itertools.cycle(ORDERS)
    for cols in TIERS[tier]:
        x = numbers_of(data, 5 if tier == "warp" else 2, cols, dtype)
        for k, lowest_index in itertools.product(counts_of_winners(cols), [False, True]):
            kernels.set_order(*next(orders))
            assert_winners(x, k, lowest_index, run(kernels, x, k, lowest_index, tier, ONE_CLUSTER_OF_2))
