"""`make gpu` as far as it goes without a GPU: its stages, their limits and verdicts, and what it writes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, machine, report

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs and results go to a folder of the test's own."""
    monkeypatch.setattr(gpu, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_without_a_gpu_one_line_says_so_and_the_exit_status_is_1() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("make gpu: PyTorch ")


def test_each_obstacle_has_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu.obstacle() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(gpu.obstacle()).endswith("finds no CUDA GPU")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert str(gpu.obstacle()).endswith("is not a CUDA build")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "has no PyTorch: make gpu PYTHON=" in str(gpu.obstacle())


def test_a_stage_is_judged_by_its_exit_status_and_keeps_its_last_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    stages = gpu.Stages(60)
    stages.run(
        "good", python("print('one'); print('== 3 passed =='); import os; print(os.environ['A'])"), 30, A="b"
    )
    stages.run("bad", python("print('how it came to this'); raise SystemExit('a reason')"), 30)
    stages.run("later", python(""), 30)
    verdicts = {name: (outcome.verdict, outcome.detail) for name, outcome in stages.outcomes.items()}
    assert verdicts == {"good": ("passed", "b"), "bad": ("failed", "a reason"), "later": ("passed", "")}
    assert (gpu.LOGS / "good.log").read_text() == "one\n== 3 passed ==\nb\n"
    said = capfd.readouterr().out
    assert "good: running, at most 30 s" in said
    assert "bad: failed after 0 s: a reason" in said
    assert "how it came to this" in said
    assert "3 passed" not in said


def test_a_stage_over_its_limit_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    begin = time.monotonic()
    outcome = gpu.Stages(60).run("slow", python(code), 3)
    assert (outcome.verdict, outcome.detail) == ("timed out", "stopped after 3 s")
    assert 3 <= outcome.seconds <= time.monotonic() - begin + 0.05 < 20  # it is rounded
    assert not alive(int(note.read_text()))


def test_what_a_stage_leaves_running_is_ended_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(note)!r}, "w").write(str(child.pid))
"""
    assert gpu.Stages(60).run("leaves", python(code), 30).verdict == "passed"
    assert not alive(int(note.read_text()))


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended but has not been waited for does not."""
    for _ in range(50):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return True


def test_all_stages_together_keep_the_time_limit() -> None:
    stages = gpu.Stages(total=2)
    begin = time.monotonic()
    for name in ("first", "second", "third"):
        stages.run(name, python("import time; time.sleep(60)"), 30)
    assert time.monotonic() - begin < 15
    assert [outcome.verdict for outcome in stages.outcomes.values()] == ["timed out"] * 3


def test_a_stage_over_its_limit_may_write_down_what_it_has(tmp_path: Path) -> None:
    note = tmp_path / "note"
    code = f"""
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    open({str(note)!r}, "w").write("as far as it came")
"""
    assert gpu.Stages(60).run("slow", python(code), 2).verdict == "timed out"
    assert note.read_text() == "as far as it came"


def test_a_stage_that_goes_on_when_interrupted_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "GRACE", 1)
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    outcome = gpu.Stages(60).run("deaf", python(code), 2)
    assert (outcome.verdict, outcome.detail) == ("timed out", "stopped after 2 s")
    assert outcome.seconds < 20


TESTS = """
import pytest

@pytest.mark.parametrize("device", ["cpu", "cuda"])
class TestToy:
    def test_good(self, device): pass
    def test_bad(self, device): assert device == "cpu"
    def test_skipped(self, device): pytest.skip("why not")

def test_cuda_is_only_in_the_name(): pass
"""


def test_tests_are_counted_and_must_have_run_on_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, cpu = tmp_path / "test_both.py", tmp_path / "test_cpu.py"
    both.write_text(TESTS)
    cpu.write_text("def test_good(): pass")
    monkeypatch.setattr(gpu, "TESTS", [str(both)])
    stages = gpu.Stages(60)
    assert gpu.test(stages, seed=1) == {"collected": 7, "on_gpu": 2, "failed": 1, "errors": 0, "skipped": 2}
    assert stages.outcomes["tests"].verdict == "failed"
    monkeypatch.setattr(gpu, "TESTS", [str(cpu)])
    assert gpu.test(stages, seed=1) == {"collected": 1, "on_gpu": 0, "failed": 0, "errors": 0, "skipped": 0}
    assert (stages.outcomes["tests"].verdict, stages.outcomes["tests"].detail) == (
        "failed",
        "no test ran on the GPU",
    )


H100 = {
    "kind": "nvidia-h100-80gb-hbm3",
    "gpu": "NVIDIA H100 80GB HBM3",
    "compute_capability": "9.0",
    "driver": "580.1",
    "cuda": "13.0",
}


def pretend(monkeypatch: pytest.MonkeyPatch, **statuses: int) -> list[str]:
    """An H100, and stages that end with a status, 0 unless told; what would have been run comes back."""
    run, commands = gpu.Stages.run, []

    def instead(self: gpu.Stages, name: str, command: list[str], *args: Any, **kwargs: Any) -> gpu.Outcome:
        commands.append(" ".join([f"{key}={value}" for key, value in kwargs.items()] + command))
        if name == "benchmarks":
            stats = {"median": 1e-4, "q1": 1e-4, "q3": 2e-4, "rounds": 9}
            extra = {"contender": "native", "moved": 10**8}
            entries = [{"group": "pgd_step linf fp32", "extra_info": extra, "stats": stats}]
            measured = {"benchmarks": entries, "datetime": "now", "machine_info": {"fastadv": H100}}
            (gpu.LOGS / "bench.json").write_text(json.dumps(measured))
        if name == "tests":
            cases = '<testsuites><testcase name="test_x[cuda]"/></testsuites>'
            (gpu.LOGS / "tests.xml").write_text(cases)
        code = f"print('========= ERROR SUMMARY: 0 errors'); raise SystemExit({statuses.get(name, 0)})"
        return run(self, name, python(code), *args, **kwargs)

    monkeypatch.setattr(gpu.Stages, "run", instead)
    monkeypatch.setattr(gpu, "obstacle", lambda: None)
    monkeypatch.setattr(machine, "describe_gpu", lambda: dict(H100))
    monkeypatch.setattr(gpu, "find_sanitizer", lambda: "compute-sanitizer")
    return commands


def test_everything_measured_is_written_to_the_gpus_file(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pretend(monkeypatch)
    assert gpu.main([]) == 0
    assert commands[0].startswith("FASTADV_BUILD=cuda TORCH_CUDA_ARCH_LIST=9.0 ")
    assert "setup.py build_ext --inplace --force" in commands[0]
    path = report.RESULTS / "nvidia-h100-80gb-hbm3.json"
    assert path.stat().st_size < 50_000
    written = json.loads(path.read_text())
    assert written["machine"].items() >= H100.items()
    assert written["machine"]["torch"] == torch.__version__
    assert written["tests"] == {"collected": 1, "on_gpu": 1, "failed": 0, "errors": 0, "skipped": 0}
    assert list(written["stages"]) == ["build", "tests", "benchmarks", *gpu.TOOLS]
    for stage in written["stages"].values():
        assert stage["verdict"] == "passed"
        assert set(stage) == {"verdict", "detail", "seconds"}
    assert written["groups"]["pgd_step linf fp32"]["contenders"]["native"] == {
        "median_ms": 0.1,
        "quartiles_ms": [0.1, 0.2],
        "rounds": 9,
        "gb_per_s": 1000.0,
    }
    assert {"date", "commit", "clean"} <= written.keys()


def test_a_failed_stage_is_recorded_the_rest_runs_and_the_exit_status_is_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = pretend(monkeypatch, build=2, memcheck=1)
    assert gpu.main([]) == 1
    assert len(commands) == 3 + len(gpu.TOOLS)
    stages = json.loads((report.RESULTS / "nvidia-h100-80gb-hbm3.json").read_text())["stages"]
    failed = [name for name, stage in stages.items() if stage["verdict"] == "failed"]
    assert failed == ["build", "memcheck"]


def test_stages_can_be_run_in_several_goes_which_keep_each_others_outcomes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = pretend(monkeypatch, memcheck=1)
    state = {"commit": "abc", "clean": True}
    monkeypatch.setattr(machine, "source_state", lambda: dict(state))
    path = report.RESULTS / "nvidia-h100-80gb-hbm3.json"
    assert gpu.main(["tests", "build", "--minutes", "9"]) == 0
    assert list(json.loads(path.read_text())["stages"]) == ["build", "tests"]
    assert gpu.main(["memcheck", "benchmarks"]) == 1
    assert len(commands) == 4
    written = json.loads(path.read_text())
    assert {name: stage["verdict"] for name, stage in written["stages"].items()} == {
        "build": "passed",
        "tests": "passed",
        "benchmarks": "passed",
        "memcheck": "failed",
    }
    assert written["tests"]["on_gpu"] == 1
    assert written["groups"]
    state["commit"] = "other sources"
    assert gpu.main(["racecheck"]) == 0
    written = json.loads(path.read_text())
    assert list(written["stages"]) == ["racecheck"]
    assert (written["groups"], written["tests"]) == ({}, None)


@pytest.mark.parametrize("state", [{"commit": "unknown", "clean": None}, {"commit": "abc", "clean": False}])
def test_outcomes_of_sources_that_nobody_can_name_are_not_kept(
    state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(machine, "source_state", lambda: state)
    gpu.main(["build"])
    gpu.main(["memcheck"])
    written = json.loads((report.RESULTS / "nvidia-h100-80gb-hbm3.json").read_text())
    assert list(written["stages"]) == ["memcheck"]


def test_a_stage_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        gpu.main(["bild"])
    assert exit_.value.code == 2
    assert "no such stage: bild; there are build, tests, " in capsys.readouterr().err
