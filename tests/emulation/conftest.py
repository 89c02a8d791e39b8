"""Builds the emulation modules with the host compiler, when a test first asks for one."""

import functools
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from typing import NamedTuple

import pytest
import torch

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"

FLAGS = [
    *("-std=c++20", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-DFASTADV_EMULATE"),
    "-ffp-contract=off",  # one rounding per operation on every host, as the reference has it
    *(f"-I{path}" for path in (CSRC / "kernels", CSRC, HERE)),
    f"-I{sysconfig.get_path('include')}",
]
KERNELS = tuple(f"{path.stem}.cpp" for path in sorted((CSRC / "cuda").glob("*.cu")))  # every operator has one
MODULES = {
    "shim_module": ("shim_module.cpp", "shim_kernels.cpp", "schedule.cpp"),
    "kernel_module": ("kernel_module.cpp", *KERNELS, "schedule.cpp"),
}


class Variant(NamedTuple):
    flags: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()  # what the flags are for; all else is compiled plain


VARIANTS = {
    "plain": Variant(),
    "ucontext": Variant(("-DFASTADV_EMULATE_UCONTEXT",), ("shim_kernels.cpp", "schedule.cpp")),
    "missing_barrier": Variant(("-DFASTADV_PLANT_MISSING_BARRIER",), ("project.cpp",)),
    "sanitized": Variant(
        ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        ("shim_kernels.cpp", "schedule.cpp", *KERNELS),
    ),
}

LOAD = """
import importlib.util
import sys
import numpy as np
spec = importlib.util.spec_from_file_location(sys.argv[1], sys.argv[2])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""


class Builder:
    """Compiles and links into `cache`, unless the result of the same sources and flags is there."""

    def __init__(self, compiler: list[str], flags: list[str], cache: Path) -> None:
        self.compiler = compiler
        self.flags = flags
        self.cache = cache
        self.failures: dict[Path, str] = {}  # not to be tried again for every test
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
        headers = sorted([*CSRC.glob("kernels/*"), *HERE.glob("*.h")])
        self.common = hashlib.sha256(version + b"".join(path.read_bytes() for path in headers))

    def __call__(self, module: str, variant: str) -> Path:
        """The path of the shared library of `module` in `variant`."""

        def compile_(source: str) -> Path:
            chosen = variant if source in VARIANTS[variant].sources else "plain"
            return self._make(source, ".o", ["-c", str(HERE / source)], chosen)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_, MODULES[module]))
        return self._make(module, ".so", ["-shared", *map(str, objects)], variant)

    def _make(self, name: str, suffix: str, inputs: list[str], variant: str) -> Path:
        command = [*self.compiler, *self.flags, *VARIANTS[variant].flags, *inputs]
        key = self.common.copy()
        key.update("\0".join(command).encode())
        if suffix == ".o":
            key.update((HERE / name).read_bytes())
        family = f"{Path(name).stem}-{variant}-"
        output = self.cache / f"{family}{key.hexdigest()[:16]}{suffix}"
        if not output.exists() and output not in self.failures:
            for stale in self.cache.glob(f"{family}*{suffix}"):
                stale.unlink(missing_ok=True)
            unfinished = output.with_suffix(f".{os.getpid()}")
            command += ["-o", str(unfinished)]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode == 0:
                unfinished.replace(output)
            else:
                self.failures[output] = made.stderr
        if output in self.failures:
            pytest.fail(f"{name} ({variant}) does not compile:\n{self.failures[output]}", pytrace=False)
        return output


@pytest.fixture(scope="session")
def builder(request: pytest.FixtureRequest) -> Builder:
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    compiler = next((name for name in map(shlex.split, candidates) if shutil.which(name[0])), None)
    if compiler is None:
        pytest.skip(f"emulating the kernels takes a C++20 compiler, and none of {candidates} is there")
    pybind11 = pytest.importorskip("pybind11", reason="emulating the kernels takes pybind11")
    flags = [*FLAGS, f"-I{pybind11.get_include()}"]
    return Builder(compiler, flags, request.config.cache.mkdir("emulation"))


@pytest.fixture(scope="session")
def load_module(builder: Builder) -> Callable[[str, str], ModuleType]:
    """`load_module(module, variant)` builds and imports an emulation module."""

    @functools.cache
    def load(module: str, variant: str) -> ModuleType:
        # pybind11 keeps one module per name, and CPython asks for PyInit_<what follows the dot>.
        spec = importlib.util.spec_from_file_location(f"{variant}.{module}", builder(module, variant))
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return load


@pytest.fixture
def kernels(load_module: Callable[[str, str], ModuleType]) -> ModuleType:
    """The kernels of csrc/kernels, compiled plain."""
    return load_module("kernel_module", "plain")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On tensors this small PyTorch's threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def run_sanitized(builder: Builder) -> Callable[[str, str], CompletedProcess[str]]:
    """`run_sanitized(module, code)` runs Python code with the sanitized build as `module`.

    In a process of its own: AddressSanitizer has to be there before anything else is loaded.
    """
    command = [*builder.compiler, "-print-file-name=libasan.so"]
    library = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    if not library.is_absolute():
        pytest.skip(f"{builder.compiler[0]} has no libasan.so to preload")

    def run(module: str, code: str) -> CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", LOAD + code, module, str(builder(module, "sanitized"))],
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "LD_PRELOAD": f"{library} libstdc++.so.6",
                # Fibers put their frames on heap memory, where frames are not to be kept after a return.
                "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
                "UBSAN_OPTIONS": "print_stacktrace=1",
            },
        )

    return run
