"""The sanitizer's stages of `make gpu`: what is run under it, and what counts as passed."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fastadv
from benchmarks import gpu, sanitize

SANITIZED = "sanitize: 2336 calls agree with the reference"
CLEAN = f"========= COMPUTE-SANITIZER\n{SANITIZED}\n========= ERROR SUMMARY: 0 errors\n"
HAZARD = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at row_kernel+0x150 and Read access at row_kernel+0x1a0
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


@pytest.fixture(autouse=True)
def own_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs go to a folder of the test's own."""
    monkeypatch.setattr(gpu, "LOGS", tmp_path / "logs")


@pytest.fixture
def native() -> Iterator[None]:
    """The test chooses the native kernels, which takes some."""
    if fastadv.backend() != "native":
        pytest.skip("no kernels were built")
    yield
    fastadv.backend("auto")


@pytest.mark.parametrize(
    ("status", "output", "verdict", "detail"),
    [
        (0, CLEAN, "passed", "ERROR SUMMARY: 0 errors, exit status 0"),
        (1, CLEAN.replace("0 errors", "1 error"), "failed", "ERROR SUMMARY: 1 error, exit status 1"),
        (0, CLEAN.replace("0 errors", "12 errors"), "failed", "ERROR SUMMARY: 12 errors, exit status 0"),
        (1, CLEAN, "failed", "ERROR SUMMARY: 0 errors, exit status 1"),  # the script itself failed
        (
            0,
            HAZARD.replace("1 hazard displayed (1 error,", "0 hazards displayed (0 errors,"),
            "passed",
            "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings), exit status 0",
        ),
        (
            1,
            HAZARD,
            "failed",
            "RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings), exit status 1",
        ),
        (
            255,
            "========= Error: Device not supported. Please refer to the documentation\n",
            "unavailable",
            "Device not supported. Please refer to the documentation",
        ),
        (0, SANITIZED, "failed", "no summary, exit status 0"),
        (139, "", "failed", "no summary, exit status 139"),
    ],
)
def test_the_sanitizer_passes_only_with_a_summary_of_no_errors(
    status: int, output: str, verdict: str, detail: str
) -> None:
    assert gpu.by_sanitizer_summary(status, output) == (verdict, detail)


def script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


def test_the_sanitizer_runs_every_tool_with_one_allocation_per_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sanitizer = script(
        tmp_path / "cuda/compute-sanitizer/compute-sanitizer",
        'echo "$PYTORCH_NO_CUDA_MEMORY_CACHING $*"',
        'case "$*" in',
        "  *racecheck*) echo '========= RACECHECK SUMMARY: 2 hazards displayed'; exit 1;;",
        "  *) echo '========= ERROR SUMMARY: 0 errors';;",
        "esac",
    )
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.find_sanitizer() == str(sanitizer)
    stages = gpu.Stages(60)
    gpu.sanitize(stages, gpu.TOOLS)
    verdicts = {tool: outcome.verdict for tool, outcome in stages.outcomes.items()}
    assert verdicts == dict.fromkeys(gpu.TOOLS, "passed") | {"racecheck": "failed"}
    for tool in gpu.TOOLS:
        first = (gpu.LOGS / f"{tool}.log").read_text().splitlines()[0]
        assert first.startswith(f"1 --tool={tool} ")
        assert first.endswith(f"{sys.executable} -m benchmarks.sanitize")

    on_path = script(tmp_path / "compute-sanitizer")
    assert gpu.find_sanitizer() == str(on_path)


def test_a_missing_sanitizer_is_said_and_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_sanitizer", lambda: None)
    stages = gpu.Stages(60)
    gpu.sanitize(stages, gpu.TOOLS)
    assert {outcome.verdict for outcome in stages.outcomes.values()} == {"unavailable"}
    assert list(stages.outcomes) == gpu.TOOLS


@pytest.mark.usefixtures("native")
def test_the_sanitized_script_checks_every_operator_against_the_reference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sanitize.main("cpu")
    assert capsys.readouterr().out == f"{SANITIZED}\n"
    asked = []
    operators = [name for name in fastadv.ops.__all__ if inspect.isfunction(getattr(fastadv.ops, name))]
    for operator in operators:
        actual = getattr(fastadv.ops, operator)
        monkeypatch.setattr(
            fastadv.ops, operator, lambda *a, op=operator, f=actual, **k: asked.append(op) or f(*a, **k)
        )
    for _, call in sanitize.every_call((2, 3), torch.float32, "cpu"):
        call(fastadv.ops, lambda tensor: tensor)
    assert set(asked) == set(operators)

    monkeypatch.setattr(fastadv.ops, "steepest", lambda grad, norm: torch.zeros_like(grad))
    with pytest.raises(AssertionError):
        sanitize.main("cpu")
