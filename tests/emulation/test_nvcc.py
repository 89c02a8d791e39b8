"""The same sources compiled by nvcc: no kernel spills, and the memory-bound one moves 16 bytes at a time.

Takes nvcc, and no GPU.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
OPERATORS = sorted(path.stem for path in (CSRC / "cuda").glob("*.cu"))
ARCHS = ["80", "90", "120"]
DTYPES = {"float32": "f", "float64": "d", "float16": "NS_4HalfE", "bfloat16": "NS_8BFloat16E"}  # mangled

# At least: one for linf and four for l2. k-WTA has two for a warp, two for a block, one for a cluster and
# three for global memory, and one for the backward pass. Noise has one for each kind.
KERNELS_PER_DTYPE = {"kwta": 8, "kwta_backward": 1, "add_noise": 3, "gap_moments": 1}
WITHOUT_DTYPES = {"odds_score"}  # whose only kernel works on float64

FRAME = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<arch>\d+)'\n"
    r".*Function properties for .*\n"
    r"\s*(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)


class Frame(NamedTuple):
    """What a kernel keeps in local memory, in bytes."""

    stack: int
    spill_stores: int
    spill_loads: int


class Compiled(NamedTuple):
    """A file of machine code, and each kernel's frame by (arch, mangled name)."""

    path: Path
    frames: dict[tuple[str, str], Frame]


def compile_for_gpu(nvcc: str, source: Path, archs: list[str], output: Path) -> Compiled:
    command = [nvcc, "-x=cu", "-std=c++20", "-O3", "-fmad=false", "-Xptxas=-v", "-fatbin", str(source)]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    command += [f"-I{CSRC / 'kernels'}", f"-I{HERE}", "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"nvcc fails on {source.name}:\n{done.stderr}"
    frames = {
        (match["arch"], match["kernel"]): Frame(
            int(match["stack"]), int(match["stores"]), int(match["loads"])
        )
        for match in FRAME.finditer(done.stdout + done.stderr)
    }
    return Compiled(output, frames)


@pytest.fixture(scope="module")
def nvcc() -> str:
    home = os.environ.get("CUDA_HOME")
    candidates = [f"{home}/bin/nvcc"] if home else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    found = next(filter(None, map(shutil.which, candidates)), None)
    if found is None:
        pytest.skip(f"compiling for a GPU takes nvcc, and none of {candidates} is there")
    return found


@pytest.fixture(scope="module")
def known_archs(nvcc: str) -> list[str]:
    listed = subprocess.run(
        [nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True
    ).stdout.split()
    return [arch for arch in ARCHS if f"compute_{arch}" in listed]


@pytest.fixture(scope="module")
def compiled(
    nvcc: str, known_archs: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Compiled]:
    """Every operator's launchers for every dtype: the sources of the emulation, as CUDA."""
    folder = tmp_path_factory.mktemp("nvcc")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(
            lambda op: compile_for_gpu(nvcc, HERE / f"{op}.cpp", known_archs, folder / f"{op}.fatbin"),
            OPERATORS,
        )
        return dict(zip(OPERATORS, results, strict=True))


@pytest.fixture(params=ARCHS)
def arch(request: pytest.FixtureRequest, known_archs: list[str]) -> str:
    if request.param not in known_archs:
        pytest.skip(f"this nvcc does not know sm_{request.param}")
    return str(request.param)


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_kernel_spills_registers_or_uses_a_stack(
    compiled: dict[str, Compiled], operator: str, arch: str
) -> None:
    frames = {kernel: frame for (sm, kernel), frame in compiled[operator].frames.items() if sm == arch}
    wanted = 1 if operator in WITHOUT_DTYPES else len(DTYPES) * KERNELS_PER_DTYPE.get(operator, 5)
    assert len(frames) >= wanted
    assert {kernel: frame for kernel, frame in frames.items() if any(frame)} == {}


def test_a_kernel_that_does_use_a_stack_would_be_noticed(
    nvcc: str, known_archs: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "stack.cu"
    source.write_text(
        "__global__ void stack(int* x, int n) {"
        "  int a[64]; for (int i = 0; i < n; ++i) a[x[i]] = i; x[0] = a[n]; }"
    )
    frames = compile_for_gpu(nvcc, source, known_archs, tmp_path / "stack.fatbin").frames.values()
    assert len(frames) == len(known_archs)
    assert all(frame.stack >= 64 * 4 for frame in frames)


@pytest.fixture(scope="module")
def cuobjdump(nvcc: str) -> str:
    """The disassembler of the toolkit, or the one that Triton's wheel carries."""
    triton = importlib.util.find_spec("triton")
    folders = [os.environ.get("PATH", ""), str(Path(nvcc).parent)]
    if triton is not None and triton.origin is not None:
        folders.append(str(Path(triton.origin).parent / "backends/nvidia/bin"))
    found = shutil.which("cuobjdump", path=os.pathsep.join(folders))
    if found is None:
        pytest.skip(f"reading machine code takes cuobjdump, and it is in none of {folders}")
    return found


def machine_code_of(compiled: Compiled, kernel: str, cuobjdump: str, arch: str) -> str:
    """That of the one kernel whose mangled name has this part."""
    (name,) = {name for _, name in compiled.frames if kernel in name}
    command = [cuobjdump, "-sass", "-arch", f"sm_{arch}", "-fun", name, str(compiled.path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_linf_pgd_step_reads_and_writes_16_bytes_at_a_time(
    compiled: dict[str, Compiled], cuobjdump: str, dtype: str, arch: str
) -> None:
    kernel = f"elementwise_kernelINS_11LinfPgdStepI{DTYPES[dtype]}Lb1ELb1E"
    machine_code = machine_code_of(compiled["pgd_step"], kernel, cuobjdump, arch)
    assert len(re.findall(r"\bLDG\.E\.128\b", machine_code)) >= 3  # x_adv, x and grad
    assert len(re.findall(r"\bSTG\.E\.128\b", machine_code)) >= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", ["17kwta_block_kernelI{}Li1024E", "17kwta_count_kernelI{}E"])
def test_kwta_reads_16_bytes_at_a_time_and_leaves_equal_digits_of_a_warp_to_one_addition(
    compiled: dict[str, Compiled], cuobjdump: str, kernel: str, dtype: str, arch: str
) -> None:
    machine_code = machine_code_of(compiled["kwta"], kernel.format(DTYPES[dtype]), cuobjdump, arch)
    assert re.search(r"\bLDG\.E\.128\b", machine_code)
    assert re.search(r"\bATOMS\.POPC\.INC\b", machine_code)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cluster_kernel_exists_from_sm_90_on_and_traps_before(
    compiled: dict[str, Compiled], cuobjdump: str, dtype: str, arch: str
) -> None:
    kernel = f"19kwta_cluster_kernelI{DTYPES[dtype]}E"
    machine_code = machine_code_of(compiled["kwta"], kernel, cuobjdump, arch)
    barriers = len(re.findall(r"\bUCGABAR_WAIT\b", machine_code))
    if int(arch) >= 90:
        assert barriers >= 4
    else:
        assert barriers == 0
        assert "BPT.TRAP" in machine_code
