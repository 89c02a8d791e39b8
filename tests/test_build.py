"""What setup.py builds with the tools it finds, what it says, and what goes into a wheel."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]
VARIABLES = ("FASTADV_BUILD", "FASTADV_BACKEND", "CXX", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST")


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fastadv_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup = load_setup()
needs_compiler = pytest.mark.skipif(setup.find_compiler() is None, reason="no C++ compiler")
needs_nvcc = pytest.mark.skipif(
    torch.version.cuda is None or setup.find_cuda_home() is None, reason="no nvcc, or no CUDA build of torch"
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of setup.py's variables is set, and this interpreter's tools (ninja) are on PATH."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources of the package, without anything that was built."""
    tree = tmp_path / "tree"
    for folder in ("fastadv", "csrc"):
        ignored = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    for file in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    return tree


@pytest.fixture
def toy_tree(tree: Path) -> Path:
    """The same with sources that compile in no time; one names a header that pip may have to bring."""
    shutil.rmtree(tree / "csrc")
    for file, source in {
        "ops.cpp": "int fastadv_ops() { return 0; }",
        "cpu/toy.cpp": "int fastadv_cpu() { return 1; }",
        "cuda/toy.cu": "#include <cusparse.h>\n__global__ void toy(int *x) { *x = 2; }",
    }.items():
        (tree / "csrc" / file).parent.mkdir(exist_ok=True)
        (tree / "csrc" / file).write_text(source + "\n")
    return tree


def write_script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


def make_toolkit(home: Path, release: str = "13.0") -> Path:
    """A CUDA toolkit's nvcc as far as setup.py asks it anything."""
    write_script(
        home / "bin/nvcc",
        'case "$1" in',
        f"--dryrun) echo '#$ TOP={home}/bin/..' >&2 ;;",
        f"--version) echo 'Cuda compilation tools, release {release}, V{release}.88' ;;",
        "--list-gpu-arch) printf 'compute_%s\\n' 75 80 86 89 90 ;;",
        "esac",
    )
    return home


def run(command: list[str], cwd: Path, **variables: str) -> tuple[int, str]:
    """Exit status and output."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout


def build_in_place(tree: Path, **variables: str) -> tuple[int, str]:
    return run([sys.executable, "setup.py", "build_ext", "--inplace"], tree, **variables)


def build_wheel(tree: Path, **variables: str) -> tuple[Path, str]:
    """The wheel that `pip install --no-build-isolation .` makes and installs, and what pip printed."""
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-build-isolation", "--no-deps"]
    status, output = run([*command, "--wheel-dir", "dist", "."], tree, **variables)
    assert status == 0, output
    (wheel,) = (tree / "dist").glob("*.whl")
    return wheel, output


def said(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if line.strip().startswith("fastadv: ")]


def contents(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def package_files() -> set[str]:
    """What every wheel holds: the modules and two small files, but no tests and no C++."""
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "fastadv").rglob("*.py")}
    return modules | {"fastadv/py.typed", "fastadv/_build.json"}


def backend_of(wheel: Path, tmp_path: Path) -> str:
    """Unpack a wheel, take a step with its pgd_step in a fresh interpreter, and name its backend."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    program = """
import torch, fastadv
x = torch.full((2, 3), 0.5)
stepped = fastadv.ops.pgd_step(x, x, torch.tensor([[1.0, -1, 0], [2, 0, -2]]), eps=0.25, step_size=0.5)
assert stepped.tolist() == [[0.75, 0.25, 0.5], [0.75, 0.5, 0.25]], stepped
print(fastadv.__file__)
print(fastadv.backend())
"""
    status, output = run([sys.executable, "-c", program], tmp_path, PYTHONPATH=str(site))
    assert status == 0, output
    file, backend = output.splitlines()[-2:]
    assert Path(file).is_relative_to(site)
    return backend


@needs_compiler
def test_without_nvcc_the_wheel_holds_the_cpu_kernels_and_they_run(tree: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    wheel, output = build_wheel(tree, CUDA_HOME=nowhere)

    reason = f"no nvcc in {nowhere}" if torch.version.cuda else "this torch is not a CUDA build"
    assert said(output) == [f"fastadv: built the CPU kernels only ({reason})"]
    assert "-cp311-abi3-" in wheel.name
    assert contents(wheel) == package_files() | {"fastadv/_C.abi3.so"}
    assert backend_of(wheel, tmp_path) == "native"


def test_without_a_compiler_the_wheel_is_pure_python_and_runs_on_the_reference(
    tree: Path, tmp_path: Path
) -> None:
    wheel, output = build_wheel(tree, PATH=str(tmp_path / "nowhere"))

    reason = "no C++ compiler: c++, g++, clang++ not found"
    assert said(output) == [f"fastadv: built no kernels, so it runs on its PyTorch reference ({reason})"]
    assert wheel.name.endswith("-py3-none-any.whl")
    assert contents(wheel) == package_files()
    assert backend_of(wheel, tmp_path) == "reference"


@needs_compiler
def test_a_compiler_that_fails_is_an_error_and_not_a_smaller_build(toy_tree: Path, tmp_path: Path) -> None:
    answers = f'[ "$1" = --version ] && exec {shutil.which(setup.find_compiler())} --version'
    broken = write_script(tmp_path / "bin/c++", answers, "echo this compiler is broken; exit 1")
    status, output = build_in_place(toy_tree, CXX=str(broken), CUDA_HOME=str(tmp_path / "nowhere"))

    assert status != 0
    assert "this compiler is broken" in output
    assert not said(output)


@needs_compiler
@needs_nvcc
def test_cuda_is_built_without_a_gpu_through_a_wrapper_and_removed_by_a_smaller_build(
    toy_tree: Path, tmp_path: Path
) -> None:
    home = setup.find_cuda_home()
    write_script(tmp_path / "bin/nvcc", f'exec {home}/bin/nvcc "$@"')
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    status, output = build_in_place(
        toy_tree, PATH=path, TORCH_CUDA_ARCH_LIST="8.0 9.0+PTX", CUDA_VISIBLE_DEVICES=""
    )

    assert status == 0, output
    expected = f"fastadv: built the CPU kernels, and the CUDA kernels for 8.0 9.0+PTX with {home}"
    assert said(output) == [expected]
    flags = {word for word in output.split() if word.startswith("-gencode=")}
    codes = ("sm_80", "sm_90", "compute_90")
    assert flags == {f"-gencode=arch=compute_{code[-2:]},code={code}" for code in codes}
    record = toy_tree / "fastadv/_build.json"
    assert json.loads(record.read_text()) == {"build": "cuda", "cuda_archs": "8.0 9.0+PTX"}
    libraries = {file.name for file in (toy_tree / "fastadv").glob("*.so")}
    assert libraries == {"_C.abi3.so", "_C_cuda.abi3.so"}

    status, output = build_in_place(toy_tree, FASTADV_BUILD="cpu")

    assert status == 0, output
    assert said(output) == ["fastadv: built the CPU kernels only (FASTADV_BUILD=cpu)"]
    assert json.loads(record.read_text()) == {"build": "cpu", "cuda_archs": ""}
    assert {file.name for file in (toy_tree / "fastadv").glob("*.so")} == {"_C.abi3.so"}


def test_the_toolkit_is_found_behind_a_wrapper_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_toolkit(tmp_path / "opt/cuda")
    wrapper = write_script(tmp_path / "bin/nvcc", f'exec {home}/bin/nvcc "$@"')
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=os.pathsep)
    assert setup.find_cuda_home() == home

    # What wrappers in /usr/local/bin lead others to take for the toolkit.
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert setup.find_cuda_home() == home


def test_cuda_home_goes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{make_toolkit(tmp_path / 'on_path')}/bin", prepend=os.pathsep)
    home = make_toolkit(tmp_path / "chosen")
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert setup.find_cuda_home() == home


def test_an_nvcc_that_names_no_toolkit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = write_script(tmp_path / "bin/nvcc", "exit 1")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=f"{nvcc} --dryrun names no CUDA toolkit"):
        setup.find_cuda_home()


def test_default_architectures_are_those_the_nvcc_knows_with_ptx_for_later_gpus(tmp_path: Path) -> None:
    assert setup.choose_archs(make_toolkit(tmp_path)) == "7.5 8.0 9.0+PTX"


def test_torch_cuda_arch_list_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.9")
    assert setup.choose_archs(tmp_path) == "8.9"


@pytest.fixture
def all_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler and a toolkit of CUDA 13.0, as far as setup.py looks at them before it builds."""
    monkeypatch.setenv("CXX", str(write_script(tmp_path / "bin/c++", "exit 1")))
    home = make_toolkit(tmp_path / "cuda")
    monkeypatch.setenv("CUDA_HOME", str(home))
    return home


def test_the_most_that_the_tools_allow_is_built_unless_less_is_asked_for(
    all_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert setup.choose("13.0") == setup.Plan("cuda", "", all_tools, "7.5 8.0 9.0+PTX")
    assert setup.choose(None) == setup.Plan("cpu", "this torch is not a CUDA build")
    for level in ("cpu", "reference"):
        monkeypatch.setenv("FASTADV_BUILD", level)
        assert setup.choose("13.0") == setup.Plan(level, f"FASTADV_BUILD={level}")


def test_a_toolkit_of_another_major_version_than_torchs_is_refused(all_tools: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"torch was built with CUDA 12\.8, but .* is CUDA 13: set CUDA_HOME"
    ):
        setup.choose("12.8")


@pytest.mark.usefixtures("all_tools")
@pytest.mark.parametrize(
    ("hidden", "asked", "message"),
    [
        ("CUDA_HOME", "cuda", "FASTADV_BUILD=cuda is impossible here: no nvcc in nowhere"),
        ("CXX", "cuda", "FASTADV_BUILD=cuda is impossible here: no C++ compiler: nowhere not found"),
        ("CXX", "cpu", "FASTADV_BUILD=cpu is impossible here: no C++ compiler: nowhere not found"),
        ("CXX", "gpu", "FASTADV_BUILD must be auto, cuda, cpu or reference, got 'gpu'"),
    ],
)
def test_what_is_asked_for_and_impossible_is_refused_in_one_line(
    hidden: str, asked: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(hidden, "nowhere")
    monkeypatch.setenv("FASTADV_BUILD", asked)
    with pytest.raises(SystemExit) as refused:
        setup.choose("13.0")
    assert refused.value.code == f"fastadv: {message}"


def test_without_torch_pip_says_what_to_do(tree: Path) -> None:
    program = """
import runpy, sys
sys.modules["torch"] = None
runpy.run_path("setup.py", run_name="__main__")
"""
    status, output = run([sys.executable, "-c", program], tree)
    assert status == 1
    assert output == "fastadv: first install torch>=2.11, then: pip install --no-build-isolation .\n"
