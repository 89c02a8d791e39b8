"""Compile the kernels: fastadv._C (schemas, CPU) and fastadv._C_cuda (CUDA), both on LibTorch's stable ABI.

What is built depends on the tools at hand, and one line says which it was:

    a C++ compiler, nvcc and a CUDA build of torch    CPU and CUDA kernels (no GPU needed)
    a C++ compiler                                    CPU kernels
    none                                              nothing: fastadv runs on its PyTorch reference

A tool that is missing is left out; a tool that is there and fails stops the build. Environment variables:

    FASTADV_BUILD         auto (default), or exactly cuda, cpu or reference: an error where that is impossible
    CXX                   the C++ compiler (default: the first of c++, g++, clang++ on PATH)
    CUDA_HOME             the CUDA toolkit (default: the one behind the nvcc on PATH, then /usr/local/cuda)
    TORCH_CUDA_ARCH_LIST  such as "8.0 9.0+PTX" (default: Turing to Blackwell, as far as nvcc knows them)
    MAX_JOBS              how many compilers to run at once
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import setuptools
from setuptools import Distribution, Extension
from setuptools.command.build import build

ARCHS = ("7.5", "8.0", "9.0", "10.0", "12.0")  # 8.6 and 8.9 run the code of 8.0
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # that of torch 2.11, the oldest one supported
# a*b+c is never contracted into one rounding: CPU, CUDA and reference are to agree bit for bit.
CXX_FLAGS = ["-O3", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", STABLE_ABI]
# Both sides of a selection may be computed: without it loops with one are vectorised by AVX-512 alone.
CXX_FLAGS += ["-fno-trapping-math", "-fno-math-errno"]
NVCC_FLAGS = ["-O3", "-fmad=false", "-lineinfo", "--threads=2", "-Xcompiler=-fvisibility=hidden,-Wall"]
# USE_CUDA opens the stable ABI's way to the current stream; compressed, the library is a quarter the size.
NVCC_FLAGS += [STABLE_ABI, "-DUSE_CUDA", "-Xfatbin=-compress-all"]


@dataclass
class Plan:
    """What to build ("cuda", "cpu" or "reference"), why not more, and for CUDA with what."""

    level: str
    why: str
    cuda_home: Path | None = None
    archs: str = ""

    def __str__(self) -> str:
        """The one line that says what was built."""
        if self.level == "cuda":
            return (
                f"fastadv: built the CPU kernels, and the CUDA kernels for {self.archs} with {self.cuda_home}"
            )
        if self.level == "cpu":
            return f"fastadv: built the CPU kernels only ({self.why})"
        return f"fastadv: built no kernels, so it runs on its PyTorch reference ({self.why})"


def find_compiler() -> str | None:
    """The C++ compiler: $CXX where it is set, else the first of the usual names on PATH."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((name for name in names if shutil.which(shlex.split(name)[0])), None)


def find_cuda_home() -> Path | None:
    """The CUDA toolkit as nvcc itself names it: the nvcc on PATH may be a wrapper that lives elsewhere."""
    home = os.environ.get("CUDA_HOME")
    candidates = [f"{home}/bin/nvcc"] if home else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    nvcc = next(filter(None, map(shutil.which, candidates)), None)
    if nvcc is None:
        return None
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    steps = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    top = re.search(r"^#\$ TOP=(.+)$", steps, re.MULTILINE)
    if top is None or not Path(top[1], "bin/nvcc").is_file():
        raise SystemExit(f"fastadv: {nvcc} --dryrun names no CUDA toolkit: mend it, or set FASTADV_BUILD=cpu")
    return Path(top[1]).resolve()


def check_cuda_version(cuda_home: Path, torch_cuda: str) -> None:
    """Refuse a toolkit of another major version than torch's: the two do not link."""
    version = subprocess.check_output([cuda_home / "bin/nvcc", "--version"], text=True)
    release = "".join(re.findall(r"release (\d+)\.", version))
    if release != torch_cuda.split(".")[0]:
        mismatch = f"torch was built with CUDA {torch_cuda}, but {cuda_home} is CUDA {release}"
        raise SystemExit(f"fastadv: {mismatch}: set CUDA_HOME to a matching toolkit, or FASTADV_BUILD=cpu")


def choose_archs(cuda_home: Path) -> str:
    """TORCH_CUDA_ARCH_LIST, else those of ARCHS that this nvcc knows, with PTX of the last for later GPUs."""
    if wanted := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return wanted
    known = subprocess.check_output([cuda_home / "bin/nvcc", "--list-gpu-arch"], text=True).split()
    return " ".join(arch for arch in ARCHS if "compute_" + arch.replace(".", "") in known) + "+PTX"


def choose(torch_cuda: str | None) -> Plan:
    """The most that the tools at hand allow, or what FASTADV_BUILD asks for; `torch_cuda` is torch's CUDA."""
    wanted = os.environ.get("FASTADV_BUILD") or "auto"
    if wanted not in ("auto", "cuda", "cpu", "reference"):
        raise SystemExit(f"fastadv: FASTADV_BUILD must be auto, cuda, cpu or reference, got {wanted!r}")
    if wanted == "reference":
        return Plan("reference", "FASTADV_BUILD=reference")
    if find_compiler() is None:
        plan = Plan("reference", f"no C++ compiler: {os.environ.get('CXX') or 'c++, g++, clang++'} not found")
    elif wanted == "cpu":
        plan = Plan("cpu", "FASTADV_BUILD=cpu")
    elif torch_cuda is None:
        plan = Plan("cpu", "this torch is not a CUDA build")
    elif (cuda_home := find_cuda_home()) is None:
        plan = Plan("cpu", f"no nvcc in {os.environ.get('CUDA_HOME') or 'PATH or /usr/local/cuda'}")
    else:
        check_cuda_version(cuda_home, torch_cuda)
        plan = Plan("cuda", "", cuda_home, choose_archs(cuda_home))
    if wanted not in ("auto", plan.level):
        raise SystemExit(f"fastadv: FASTADV_BUILD={wanted} is impossible here: {plan.why}")
    return plan


def pip_cuda_includes() -> list[str]:
    """Headers of pip's CUDA packages, searched last: a toolkit may lack some that torch's headers name."""
    nvidia = find_spec("nvidia")
    roots = nvidia.submodule_search_locations if nvidia else None
    return [
        f"-Xcompiler=-idirafter{path}" for root in roots or () for path in sorted(glob(f"{root}/*/include"))
    ]


def main() -> None:
    """Choose what to build and hand it to setuptools, which reads the metadata from pyproject.toml."""
    if find_spec("torch") is None:
        raise SystemExit("fastadv: first install torch>=2.11, then: pip install --no-build-isolation .")
    if tuple(map(int, setuptools.__version__.split(".")[:2])) < (77, 0):
        found = f"found {setuptools.__version__}: pip install -U 'setuptools<82' ninja"
        raise SystemExit(f"fastadv: needs setuptools>=77.0.3, {found}")
    import torch

    plan = choose(torch.version.cuda)
    if compiler := find_compiler():
        os.environ["CXX"] = compiler
    if plan.cuda_home:
        os.environ.update(CUDA_HOME=str(plan.cuda_home), TORCH_CUDA_ARCH_LIST=plan.archs)
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # reads CUDA_HOME

    def extension(
        kind: Callable[..., Extension], name: str, sources: list[str], **flags: list[str]
    ) -> Extension:
        return kind(
            name,
            sources,
            include_dirs=[os.path.abspath("csrc")],
            depends=[path for path in glob("csrc/**", recursive=True) if path.endswith((".h", ".cuh"))],
            extra_compile_args=flags,
            py_limited_api=True,
        )

    extensions = []
    if plan.level != "reference":
        sources = ["csrc/ops.cpp", *sorted(glob("csrc/cpu/*.cpp"))]
        extensions.append(extension(CppExtension, "fastadv._C", sources, cxx=CXX_FLAGS))
    if plan.level == "cuda":
        sources, flags = sorted(glob("csrc/cuda/*.cu")), NVCC_FLAGS + pip_cuda_includes()
        extensions.append(extension(CUDAExtension, "fastadv._C_cuda", sources, nvcc=flags))

    class BuildKernels(BuildExtension):
        """Build the extensions, leave no older ones beside them, and say what was built."""

        def __init__(self, distribution: Distribution) -> None:
            super().__init__(distribution, use_ninja=bool(extensions))

        def run(self) -> None:
            package = Path(self.get_ext_fullpath("fastadv._C")).parent
            built = {Path(self.get_ext_fullpath(extension.name)) for extension in self.extensions}
            for stale in set(package.glob("_C*.so")) - built:
                stale.unlink()
            super().run()
            package.mkdir(parents=True, exist_ok=True)
            (package / "_build.json").write_text(json.dumps({"build": plan.level, "cuda_archs": plan.archs}))
            print(plan)

    class Build(build):
        """Run build_ext even where there is nothing to compile: it says so."""

        sub_commands: ClassVar = [("build_py", None), ("build_ext", None)]

    setuptools.setup(
        ext_modules=extensions,
        cmdclass={"build": Build, "build_ext": BuildKernels},
        options={"bdist_wheel": {"py_limited_api": "cp311"}} if extensions else {},
    )


if __name__ == "__main__":
    main()
