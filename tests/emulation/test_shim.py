"""The emulation itself: right kernels are right in every order, and each kind of mistake is reported."""

import platform
from collections.abc import Callable
from subprocess import CompletedProcess
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

ORDERS = [("forward", 0), ("reverse", 0), ("shuffled", 1), ("shuffled", 2), ("shuffled", 3)]

LoadModule = Callable[[str, str], ModuleType]
RunSanitized = Callable[[str, str], CompletedProcess[str]]


@pytest.fixture(params=["plain", "ucontext"])
def shim(request: pytest.FixtureRequest, load_module: LoadModule) -> ModuleType:
    return load_module("shim_module", request.param)


def test_both_ways_of_switching_stacks_are_tested(load_module: LoadModule) -> None:
    on_linux = platform.machine() == "x86_64" and platform.system() == "Linux"
    assert load_module("shim_module", "plain").uses_ucontext() != on_linux
    assert load_module("shim_module", "ucontext").uses_ucontext()


def integers(rows: int, columns: int) -> NDArray[np.float32]:
    """Small integers: their sums are exact, so they cannot depend on the order of addition."""
    return np.random.default_rng(0).integers(1, 100, (rows, columns)).astype(np.float32)


def orders_in_which_sums_are_right(shim: ModuleType, bug: str) -> list[bool]:
    x = integers(rows=3, columns=1000)
    right = []
    for order in ORDERS:
        shim.set_order(*order)
        right.append(np.array_equal(shim.sum_rows(x, bug), x.sum(1)))
    return right


def test_a_right_reduction_is_right_in_every_order(shim: ModuleType) -> None:
    assert all(orders_in_which_sums_are_right(shim, "none"))


@pytest.mark.parametrize("bug", ["missing_read_barrier", "missing_write_barrier"])
def test_a_missing_barrier_shows_in_some_order(shim: ModuleType, bug: str) -> None:
    assert not all(orders_in_which_sums_are_right(shim, bug))


@pytest.mark.parametrize("order", ORDERS)
def test_every_thread_of_a_three_dimensional_launch_runs_once_with_its_own_index(
    shim: ModuleType, order: tuple[str, int]
) -> None:
    shim.set_order(*order)
    blocks, threads = np.arange(2 * 3 * 4), np.arange(5 * 6 * 3)
    expected = blocks[:, None] * 10000 + threads
    assert np.array_equal(shim.thread_numbers([2, 3, 4], [5, 6, 3]), expected.ravel())


@pytest.mark.parametrize("order", ORDERS)
def test_shared_memory_is_poisoned_at_the_start_of_every_block(
    shim: ModuleType, order: tuple[str, int]
) -> None:
    shim.set_order(*order)
    assert np.isnan(shim.first_shared_value(5)).all()


@pytest.mark.parametrize("order", ORDERS)
def test_shuffles_votes_and_atomics_give_what_cuda_defines(shim: ModuleType, order: tuple[str, int]) -> None:
    shim.set_order(*order)
    x = np.random.default_rng(1).integers(0, 1000, 96, dtype=np.int32)
    lane = np.arange(32)
    warps = x.reshape(3, 32)
    votes = (np.where(warps % 3 == 0, np.uint32(1) << lane.astype(np.uint32), 0)).sum(1).astype(np.uint32)
    expected = np.stack(
        [
            warps[:, lane ^ 1],
            warps[:, np.where(lane < 2, lane, lane - 2)],
            warps[:, np.where(lane > 29, lane, lane + 2)],
            np.repeat(warps[:, 5:6], 32, axis=1),
            np.repeat(votes.view(np.int32)[:, None], 32, axis=1),
            np.full((3, 32), 96),
        ],
        axis=-1,
    )
    assert np.array_equal(shim.warp_primitives(x), expected.reshape(96, 6))


def test_a_divergent_barrier_is_reported_with_both_places(shim: ModuleType) -> None:
    message = (
        r"divergent __syncthreads: thread \(0,0,0\) waits at .*shim_kernels\.cpp:\d+, "
        r"but thread \(100,0,0\) waits at .*shim_kernels\.cpp:\d+, "
        r"in block \(0,0,0\) of diverge_at_barrier_kernel"
    )
    with pytest.raises(RuntimeError, match=message):
        shim.diverge_at_barrier(128)
    shim.diverge_at_barrier(96)  # nobody takes the other branch, and the failure before leaves no trace


def test_a_ballot_with_absent_lanes_is_reported_with_where_they_are(shim: ModuleType) -> None:
    message = (
        r"deadlock: .* thread \(0,0,0\) waits at .*shim_kernels\.cpp:\d+ waits for lanes that never come: "
        r"thread \(1,0,0\) waits at .*shim_kernels\.cpp:\d+"
    )
    with pytest.raises(RuntimeError, match=message):
        shim.ballot_with_waiting_lanes()


def test_a_shuffle_that_reads_a_lane_that_left_is_reported(shim: ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"shim_kernels\.cpp:\d+ reads lane 7, which takes no part"):
        shim.shuffle_from_left_lane()


def test_launches_that_cuda_or_the_emulation_refuses_are_refused(shim: ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"CUDA would refuse .* grid \(0,1,1\)"):
        shim.thread_numbers([0, 1, 1], [1, 1, 1])
    with pytest.raises(RuntimeError, match=r"CUDA would refuse .* block \(1025,1,1\)"):
        shim.thread_numbers([1, 1, 1], [1025, 1, 1])
    with pytest.raises(RuntimeError, match=r"CUDA would refuse .* clusters of 3"):
        shim.neighbours(blocks=4, threads=32, cluster_size=3, bug="none")


def test_dynamic_shared_memory_is_poisoned_and_beyond_48_kib_to_be_asked_for(shim: ModuleType) -> None:
    last = np.array([12287], np.int32)
    assert np.isnan(shim.dynamic_shared_at(last, 48 << 10))
    for allowed_bytes in (0, 64 << 10, 228 << 10):
        with pytest.raises(RuntimeError, match=f"CUDA would refuse .* {(227 << 10) + 1} bytes"):
            shim.dynamic_shared_at(last, (227 << 10) + 1, allowed_bytes)
    assert np.isnan(shim.dynamic_shared_at(last, 227 << 10, 227 << 10))


def neighbours(blocks: int, threads: int, cluster_size: int) -> NDArray[np.int32]:
    block = np.arange(blocks)
    next_in_cluster = block // cluster_size * cluster_size + (block + 1) % cluster_size
    return next_in_cluster[:, None] * 1000 + np.arange(threads)[::-1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cluster_size", [1, 2, 4, 8])
def test_the_blocks_of_a_cluster_read_each_others_shared_memory(
    shim: ModuleType, cluster_size: int, order: tuple[str, int]
) -> None:
    shim.set_order(*order)
    got = shim.neighbours(blocks=16, threads=70, cluster_size=cluster_size, bug="none")
    assert np.array_equal(got, neighbours(16, 70, cluster_size))


@pytest.mark.parametrize("bug", ["missing_start_barrier", "missing_end_barrier"])
def test_reading_the_memory_of_a_block_that_has_not_started_or_has_left_is_reported(
    shim: ModuleType, bug: str
) -> None:
    message = r"reads the shared memory of a block that does not run, at .*shim_kernels\.cpp:\d+"
    for order in ORDERS:
        shim.set_order(*order)
        with pytest.raises(RuntimeError, match=message):
            shim.neighbours(blocks=16, threads=70, cluster_size=4, bug=bug)


def test_a_divergent_cluster_barrier_is_reported_with_both_places(shim: ModuleType) -> None:
    shim.set_order("forward")
    message = (
        r"divergent cluster barrier: thread \(0,0,0\) waits at .*shim_kernels\.cpp:\d+ of block \(0,0,0\), "
        r"but thread \(0,0,0\) waits at .*shim_kernels\.cpp:\d+, in block \(1,0,0\)"
    )
    with pytest.raises(RuntimeError, match=message):
        shim.diverge_at_cluster_barrier()


def test_any_one_barrier_of_a_kernel_can_be_left_out(shim: ModuleType) -> None:
    shim.take_barriers()
    shim.sum_rows(integers(3, 1000), "none")
    barriers = shim.take_barriers()
    assert barriers == 2 * 8  # of every thread, in 8 passes
    try:
        for number in range(barriers - 1):
            shim.leave_out_barrier(number)
            assert not all(orders_in_which_sums_are_right(shim, "none")), f"barrier {number}"
        for number in (barriers - 1, barriers, -1):  # the last one guards nothing any more
            shim.leave_out_barrier(number)
            assert all(orders_in_which_sums_are_right(shim, "none"))
    finally:
        shim.leave_out_barrier(-1)


def test_launches_are_recorded_by_kernel(shim: ModuleType) -> None:
    shim.take_launched()
    shim.sum_rows(integers(1, 10), "none")
    shim.diverge_at_barrier(1)
    assert shim.take_launched() == ["(sum_rows_kernel<Bug::none>)", "diverge_at_barrier_kernel"]
    assert shim.take_launched() == []


@pytest.mark.parametrize(
    ("code", "report"),
    [
        ("module.gather(np.ones(8, np.float32), np.array([0, 7, 8], np.int32))", "heap-buffer-overflow"),
        ("module.shared_at(np.array([8], np.int32))", "index 8 out of bounds"),
        ("module.dynamic_shared_at(np.array([8], np.int32), 32)", "heap-buffer-overflow"),
        ("module.load_vector(np.ones(8, np.float32)[1:5])", "misaligned address"),
    ],
    ids=["global", "shared", "dynamic_shared", "misaligned"],
)
def test_a_bad_access_ends_the_sanitized_process_with_file_and_line(
    run_sanitized: RunSanitized, code: str, report: str
) -> None:
    done = run_sanitized("shim_module", code)
    assert done.returncode != 0
    assert report in done.stderr
    assert "shim_kernels.cpp:" in done.stderr


def test_good_accesses_pass_the_sanitizers(run_sanitized: RunSanitized) -> None:
    code = """
module.gather(np.ones(8, np.float32), np.array([0, 7], np.int32))
module.shared_at(np.array([7], np.int32))
module.load_vector(np.ones(8, np.float32)[4:])
module.dynamic_shared_at(np.array([7], np.int32), 32)
module.neighbours(16, 70, 4, "none")
for order in ["forward", "reverse", "shuffled"]:
    module.set_order(order)
    module.sum_rows(np.ones((3, 1000), np.float32), "none")
    try:
        module.diverge_at_barrier(128)
    except RuntimeError:
        print("reported")
"""
    done = run_sanitized("shim_module", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["reported"] * 3
