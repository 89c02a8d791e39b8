"""The source of the k-WTA kernels, run on the CPU in every tier, against a stable sort."""

import itertools
import math
import os
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.emulation.harness import (
    ORDERS,
    Output,
    array,
    bits,
    every_dtype,
    moved_by,
    name_of,
)

H200 = (227 << 10, 132, 8)  # shared bytes per block, multiprocessors, largest cluster
CLUSTERS_OF_2 = (227 << 10, 132, 2)
TIERS = {
    "warp": [1, 2, 31, 33, 256, 257, 509],
    "block": [1, 33, 1000, 4099],
    "cluster": [1, 33, 1000, 4099],
    "global": [1, 33, 1000, 16384, 16387],
}


pytestmark = pytest.mark.usefixtures("one_thread")


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
            assert_winners(x, k, lowest_index, run(kernels, x, k, lowest_index, tier, CLUSTERS_OF_2))


@every_dtype
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tier", TIERS)
def test_neither_alignment_nor_order_of_execution_changes_the_winners(
    kernels: ModuleType, tier: str, order: tuple[str, int], dtype: torch.dtype
) -> None:
    kernels.set_order(*order)
    cols = TIERS[tier][-1]
    for offset, data in itertools.product([1, 3], ["normal", "heavy_ties"]):
        x = moved_by(numbers_of(data, 3, cols, dtype), offset)
        result = run(kernels, x, cols // 10, True, tier, CLUSTERS_OF_2, offset=4 - offset)
        assert_winners(x, cols // 10, True, result)


@pytest.mark.parametrize("tier", TIERS)
def test_winners_that_nobody_asks_for_are_not_written(kernels: ModuleType, tier: str) -> None:
    x = numbers_of("heavy_ties", 3, 300, torch.float32)
    out = Output(x)
    kernels.kwta("float32", array(out.tensor), array(x), None, k=30, tier=tier)
    expected = torch.where(winners_by_sorting(x, 30, False), x, 0.0)
    assert torch.equal(bits(out.guarded()), bits(expected))


def test_a_row_of_more_chunks_than_a_block_has_threads_has_its_ties_split_right(kernels: ModuleType) -> None:
    cols = 257 * 16384 + 3
    x = torch.ones(1, cols, dtype=torch.float16)
    out, words = run(kernels, x, cols - 5, True, "global")
    assert out.count_nonzero() == cols - 5
    assert torch.equal(out.nonzero()[-1], torch.tensor([0, cols - 6]))
    assert torch.equal(words, words_of(out != 0))


# Which tier, how many blocks


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_every_size_of_cluster_finds_the_winners(kernels: ModuleType, blocks: int) -> None:
    for data, lowest_index in [("normal", False), ("heavy_ties", True)]:
        x = numbers_of(data, 1, 4096 * blocks + 5, torch.float32)
        limits = (227 << 10, 132, blocks)
        assert kernels.kwta_plan("float32", *x.shape, "cluster", limits) == ("cluster", blocks)
        assert_winners(x, 777, lowest_index, run(kernels, x, 777, lowest_index, "cluster", limits))


@pytest.mark.parametrize(
    ("cols", "tier", "launches"),
    [
        (256, "", ["(kwta_warp_kernel<T, kShortSlots>)"]),
        (257, "", ["(kwta_warp_kernel<T, kWarpCols<T> / kWarp>)"]),
        (1024, "", ["(kwta_warp_kernel<T, kWarpCols<T> / kWarp>)"]),
        (1025, "", ["(kwta_block_kernel<T, Threads>)"]),
        (16384, "block", ["(kwta_block_kernel<T, Threads>)"]),
        (16385, "block", ["(kwta_block_kernel<T, Threads>)"]),
        (16385, "", ["(kwta_cluster_kernel<T>)"]),
        (
            1000,
            "global",
            [*["(kwta_count_kernel<T>)"] * 3, "(kwta_ties_kernel<T>)", "(kwta_write_kernel<T>)"],
        ),
    ],
)
def test_each_tier_is_taken_for_its_sizes_and_right_at_their_ends(
    kernels: ModuleType, cols: int, tier: str, launches: list[str]
) -> None:
    x = numbers_of("normal", 2, cols, torch.float32)
    kernels.take_launched()
    result = run(kernels, x, 100, True, tier)
    assert kernels.take_launched() == launches
    assert_winners(x, 100, True, result)


def test_rows_go_to_the_fewest_threads_that_hold_them_on_chip(kernels: ModuleType) -> None:
    def plan(dtype: str, cols: int, rows: int = 256, limits: tuple[int, int, int] = H200) -> tuple[str, int]:
        tier, blocks = kernels.kwta_plan(dtype, rows, cols, limits=limits)
        return tier, blocks

    # The rows of a ResNet-18 on CIFAR-10, a batch of 256.
    assert [plan("float32", n)[0] for n in (8192, 16384, 32768)] == ["block"] * 3
    assert plan("float32", 65536) == ("cluster", 2)
    assert plan("bfloat16", 65536) == ("block", 1)
    assert plan("float32", 400_000) == ("cluster", 8)
    assert plan("float32", 1_000_000) == ("global", 1)
    assert plan("float64", 512)[0] == "warp"
    assert plan("float64", 513)[0] == "block"
    # One sample leaves 131 multiprocessors without work, if they may not share it.
    assert plan("float32", 8191, rows=1) == ("block", 1)
    assert plan("float32", 16384, rows=1) == ("cluster", 4)
    assert plan("float32", 65536, rows=1) == ("cluster", 8)
    assert plan("float32", 65536, rows=34) == ("cluster", 2)
    # An A100 has no clusters, and an RTX 4090 less shared memory as well.
    assert plan("float32", 32768, limits=(163 << 10, 108, 1))[0] == "block"
    assert plan("float32", 65536, limits=(163 << 10, 108, 1))[0] == "global"
    assert plan("float32", 32768, limits=(99 << 10, 128, 1))[0] == "global"
    assert plan("float32", 65536, limits=(227 << 10, 132, 4)) == ("cluster", 2)


@every_dtype
@pytest.mark.parametrize("limits", [H200, (99 << 10, 128, 8), (48 << 10, 40, 1)])
def test_every_plan_fits_the_device(
    kernels: ModuleType, limits: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """The emulation refuses what CUDA would: too many bytes of shared memory, which grow with a row."""
    name = name_of(dtype)
    sizes = [2**e + d for e in range(24) for d in (-1, 0, 1)]
    last = {
        tier: max(n for n in sizes if kernels.kwta_plan(name, 256, n, limits=limits)[0] == tier)
        for tier in {kernels.kwta_plan(name, 256, n, limits=limits)[0] for n in sizes}
    }
    assert set(last) == ({"warp", "block", "global"} if limits[2] == 1 else set(TIERS))
    kernels.set_order("forward")
    for tier, cols in last.items():
        if tier != "global":
            x = numbers_of("normal", 1, cols, dtype)
            assert_winners(x, cols // 10, False, run(kernels, x, cols // 10, False, tier, limits))


@pytest.mark.parametrize(
    ("tier", "cols", "limits"),
    [
        ("warp", 1025, H200),
        ("block", 65536, H200),
        ("cluster", 450_000, H200),
        ("cluster", 2000, (163 << 10, 108, 1)),
    ],
)
def test_a_tier_that_cannot_hold_the_row_is_refused(
    kernels: ModuleType, tier: str, cols: int, limits: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        kernels.kwta_plan("float32", 2, cols, tier, limits)


@pytest.mark.parametrize("shape", [(0, 7), (3, 0), (0, 0)])
def test_nothing_is_launched_for_no_rows_and_for_empty_rows(
    kernels: ModuleType, shape: tuple[int, int]
) -> None:
    empty, words = np.empty(shape, np.float32), np.empty((shape[0], (shape[1] + 31) // 32), np.uint32)
    kernels.take_launched()
    kernels.kwta("float32", empty, empty, words, k=1)
    kernels.kwta_backward("float32", empty, empty, words)
    assert kernels.take_launched() == []


# Barriers


def holds_without_barrier(kernels: ModuleType, number: int, is_right: Callable[[], bool]) -> bool:
    """`is_right()` in a process of its own, because a kernel that races may write anywhere."""
    process = os.fork()
    if process == 0:
        kernels.leave_out_barrier(number)
        os.close(2)  # what the C library says of a broken heap is expected here
        os._exit(0 if is_right() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


@pytest.mark.parametrize("tier", TIERS)
def test_every_barrier_is_needed_and_its_absence_is_noticed(kernels: ModuleType, tier: str) -> None:
    cols = {"warp": 257, "block": 3000, "cluster": 3000, "global": 20011}[tier]
    # Ties, so that no digit is left out, among numbers that differ from ever lower digits on.
    generator = torch.Generator().manual_seed(0)
    pool = 1 + torch.rand(6, 40, generator=generator) / 2.0 ** torch.tensor(
        [[-1], [2], [6], [10], [14], [18]]
    )
    x = pool.gather(1, torch.randint(40, (6, cols), generator=generator))
    x[::2] *= -1

    def is_right() -> bool:
        try:
            for order in ORDERS:
                kernels.set_order(*order)
                assert_winners(x, cols // 3, True, run(kernels, x, cols // 3, True, tier, CLUSTERS_OF_2))
        except (AssertionError, RuntimeError):
            return False
        return True

    kernels.take_barriers()
    assert is_right()
    barriers = kernels.take_barriers()
    assert barriers > 0
    assert holds_without_barrier(kernels, barriers, is_right)  # which is none
    needless = [n for n in range(barriers) if holds_without_barrier(kernels, n, is_right)]
    assert needless == [], f"of the {barriers} barriers of tier {tier}"


# The backward pass


@every_dtype
@pytest.mark.parametrize("cols", [1, 2, 3, 5, 31, 32, 33, 127, 1000, 4097])
@pytest.mark.parametrize("offsets", [(0, 0), (1, 1), (0, 3)])
def test_the_gradient_of_a_winner_is_kept_and_that_of_a_loser_is_zero(
    kernels: ModuleType, offsets: tuple[int, int], cols: int, dtype: torch.dtype
) -> None:
    grad = moved_by(numbers_of("special", 19, cols, dtype), offsets[1])
    wins = torch.rand(grad.shape, generator=torch.Generator().manual_seed(cols)) < 0.4
    for order in ORDERS:
        kernels.set_order(*order)
        out = Output(grad, offsets[0])
        words = words_of(wins).numpy().view(np.uint32)
        kernels.kwta_backward(name_of(dtype), array(out.tensor), array(grad), words)
        assert torch.equal(bits(out.guarded()), bits(torch.where(wins, grad, torch.zeros_like(grad))))
