"""Runs each group of contenders once and hands pytest-benchmark what was measured; see race.py."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import fastadv
from benchmarks import machine
from benchmarks import race as races

ALLOCATOR = pytest.StashKey[str]()
CLOCK = races.Clock()
SECONDS = {"cpu": 15.0, "cuda": 1.5}  # of timing per group
OUTCOMES: dict[str, races.Outcome] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="what to measure")


def pytest_configure(config: pytest.Config) -> None:
    """Before any tensor is made."""
    config.stash[ALLOCATOR] = races.keep_freed_memory()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    cpu = machine_info["cpu"].get("brand_raw", "unknown")
    about = machine.describe_cpu(cpu, fastadv.build_info()["simd"])
    if config.getoption("--device") == "cuda":
        about |= machine.describe_gpu()
    machine_info["fastadv"] = about | machine.describe_software() | {"allocator": config.stash[ALLOCATOR]}


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.benchmark(timer=CLOCK.read))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Groups: both norms; half precision where it is fast."""
    if "dtype" in metafunc.fixturenames:
        on_gpu = metafunc.config.getoption("--device") == "cuda"
        metafunc.parametrize("dtype", ["fp32"] + ["bf16"] * on_gpu)
    if "norm" in metafunc.fixturenames:
        metafunc.parametrize("norm", ["inf", "2"])


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """What to measure: "cpu" or "cuda"; an error where "native" would be the reference in disguise."""
    fastadv.backend("native")
    return request.config.getoption("--device")


@pytest.fixture(scope="session")
def timer(device: str) -> races.Timer:
    return races.GpuTimer() if device == "cuda" else races.time_on_cpu


@pytest.fixture
def enter(benchmark: BenchmarkFixture, device: str, timer: races.Timer) -> races.Enter:
    """`enter(group, contender, make)` times the group that `make` makes, once, and reports the contender."""

    def report(group: str, contender: str, make: Callable[[], races.Race]) -> None:
        if group not in OUTCOMES:
            torch.compiler.reset()  # what was compiled for other constants would make them variables here
            OUTCOMES[group] = races.run(make(), timer, SECONDS[device])
        outcome = OUTCOMES[group]
        if contender in outcome.errors:
            raise outcome.errors[contender]
        benchmark.group = group
        benchmark.extra_info.update(contender=contender, moved=outcome.moved)
        benchmark.extra_info.update(outcome.notes.get(contender, {}))
        durations = iter(outcome.durations[contender])
        rounds = len(outcome.durations[contender])
        benchmark.pedantic(lambda: CLOCK.advance(next(durations)), rounds=rounds)

    return report
