"""Contenders timed in turn (A B C, C A B, ...): what disturbs the machine disturbs them all alike.

pytest-benchmark times one contender after the other. So a group is timed here first, and each of its tests
then shows pytest-benchmark a clock that advances by what was measured.
"""

import ctypes
import gc
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]
Timer = Callable[[Call], float]
Notes = dict[str, dict[str, float]]

FEWEST, MOST = 5, 60  # rounds


@dataclass(frozen=True)
class Race:
    """One group.

    Attributes:
        contenders: what is timed, by name; the first is what others are compared with.
        check: asserts that the contenders' results, by name, are right, and returns what is worth noting of
            them, by name. It sees the results of the contenders that did not fail.
        moved: the bytes that any implementation has to read and write, or None.
    """

    contenders: dict[str, Call]
    check: Callable[[dict[str, Any]], Notes | None]
    moved: int | None = None


Enter = Callable[[str, str, Callable[[], Race]], None]
"""enter(group, contender, make): time the group that make() makes, once, and report the contender."""


@dataclass
class Outcome:
    """Seconds per call of each contender, notes on its result, and the errors of those that failed."""

    moved: int | None = None
    durations: dict[str, list[float]] = field(default_factory=dict)
    notes: Notes = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)


def run(race: Race, timer: Timer, seconds: float) -> Outcome:
    """Check every contender once, which also warms it up, then time rounds of all for about `seconds`.

    An error is kept for the tests of those it concerns: a contender's own, or everyone's where the first
    contender fails, which others are compared with, or where the check does.
    """
    outcome = Outcome(race.moved)
    results = {}
    for name, call in race.contenders.items():
        try:
            results[name] = call()
        except Exception as error:
            outcome.errors |= {name: error} if results else dict.fromkeys(race.contenders, error)
    try:
        outcome.notes = race.check(results) or {} if results else {}
    except AssertionError as error:
        outcome.errors |= dict.fromkeys(race.contenders, error)
    calls = {name: race.contenders[name] for name in results if name not in outcome.errors}
    outcome.durations = {name: [] for name in calls}
    del results
    for call in calls.values():
        timer(call)
    gc.collect()
    gc.disable()
    try:
        start, shuffled = time.perf_counter(), random.Random(0)
        for done in range(MOST):
            if done >= FEWEST and time.perf_counter() - start > seconds:
                break
            # In an order of its own each round: who always follows the same one is helped or hurt by it.
            for name in shuffled.sample(list(calls), len(calls)):
                outcome.durations[name].append(timer(calls[name]))
    finally:
        gc.enable()
    return outcome


def agree(results: dict[str, Tensor]) -> None:
    """Assert that tensors are the same but for rounding, and that none has a NaN."""
    first = next(iter(results.values()))
    assert not first.isnan().any()
    for name, result in results.items():
        torch.testing.assert_close(result, first, msg=lambda message, name=name: f"{name}: {message}")


def time_on_cpu(call: Call) -> float:
    """Seconds that the call takes; its result is freed after that."""
    start = time.perf_counter()
    result = call()
    duration = time.perf_counter() - start
    del result
    return duration


class GpuTimer:
    """Seconds on the GPU's own clock, from an L2 cache that holds nothing of use.

    Before each call the GPU reads far more than the cache holds. That leaves clean lines only, which cost
    the call nothing to evict, and keeps the GPU busy while the host prepares the call, so that launches are
    not what is timed where the GPU has enough to do.
    """

    def __init__(self) -> None:
        cache = torch.cuda.get_device_properties().L2_cache_size
        self.unrelated = torch.ones(max(2**29, 4 * cache) // 4, device="cuda")

    def __call__(self, call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.unrelated.sum()
        start.record()
        result = call()
        end.record()
        end.synchronize()
        del result
        return start.elapsed_time(end) / 1000


class Clock:
    """A clock that only moves when told to: pytest-benchmark's, see above."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        """The time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def keep_freed_memory() -> str:
    """Have glibc keep freed memory for the next tensor; returns what was done, for the record.

    By default glibc gives a large block back to the system when it is freed. Each fresh output then costs
    the page faults of all its memory, whoever computes it: for 38 MB some 40 ms, several times what a good
    kernel takes. Applications that attack in a loop reuse memory; here everyone does, and kernels are
    compared. The heap is grown at once, so that no contender is the one to grow it.
    """
    if platform.libc_ver()[0] != "glibc":
        return "as the system has it"
    mmap_threshold, trim_threshold, largest = -3, -1, 2**31 - 1
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(mmap_threshold, largest) and libc.mallopt(trim_threshold, largest)):
        return "as the system has it: mallopt refused"
    torch.ones(2**28 - 2**20)
    return "glibc, freed memory kept: mallopt(M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, 2^31 - 1), heap of 1 GiB"
