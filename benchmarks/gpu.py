"""`make gpu`: build, test, measure and sanitize on this machine's GPU, and write down what came of it.

Needs a CUDA build of PyTorch in the Python that runs this, nvcc, pytest, pytest-benchmark and hypothesis;
downloads nothing. Every stage has a time limit, all together have 9 minutes; one that fails is recorded and
the others still run. Writes benchmarks/results/<GPU>.json and exits with 1 if anything failed. Logs are in
build/gpu/. A copy of the sources without their repository is told its commit by FASTADV_COMMIT.
"""

import datetime
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "build" / "gpu"
TESTS = ["tests/ops", "tests/attacks"]
TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"]  # of compute-sanitizer
TOTAL = 525  # seconds for all stages
LIMITS = {"build": 150, "tests": 200, "benchmarks": 220} | dict.fromkeys(TOOLS, 60)  # seconds

Verdict = tuple[str, str]


@dataclass
class Outcome:
    """What became of a stage.

    Attributes:
        verdict: "passed", "failed", "timed out" or "unavailable".
        detail: one line.
        seconds: how long it took.
    """

    verdict: str
    detail: str
    seconds: float = 0.0

    def __str__(self) -> str:
        """One line."""
        return f"{self.verdict} after {self.seconds:.0f} s: {self.detail}"


def by_exit_status(status: int, output: str) -> Verdict:
    """Verdict and detail of a stage that says all by its exit status; the detail is its last line."""
    lines = output.strip().splitlines() or [""]
    return ("passed" if status == 0 else "failed"), lines[-1].strip(" =")


def by_sanitizer_summary(status: int, output: str) -> Verdict:
    """Verdict and detail from compute-sanitizer's output: no summary, no pass."""
    if unsupported := re.search(r"^=+ Error: (.*not supported.*)$", output, re.MULTILINE):
        return "unavailable", unsupported[1]
    summary = re.search(r"^=+ ((?:ERROR|RACECHECK) SUMMARY: (\d+) .*)$", output, re.MULTILINE)
    if summary is None:
        return "failed", f"no summary, exit status {status}"
    passed = status == 0 and int(summary[2]) == 0
    return ("passed" if passed else "failed"), f"{summary[1]}, exit status {status}"


@dataclass
class Stages:
    """Runs stages one after the other until `total` seconds are over, and keeps what became of each."""

    total: float
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    def run(
        self,
        name: str,
        command: Sequence[str],
        limit: float,
        read: Callable[[int, str], Verdict] = by_exit_status,
        **variables: str,
    ) -> Outcome:
        """Run a command in the source tree for at most `limit` seconds; its output goes to a log.

        `read` makes verdict and detail of its exit status and output. What the command started ends with it.
        """
        LOGS.mkdir(parents=True, exist_ok=True)
        log = LOGS / f"{name}.log"
        begin = time.monotonic()
        limit = max(0.0, min(limit, self.start + self.total - begin))
        print(f"{name}: running, at most {limit:.0f} s", flush=True)
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                verdict, detail = read(process.wait(limit), log.read_text(errors="replace"))
            except subprocess.TimeoutExpired:
                verdict, detail = "timed out", f"stopped after {limit:.0f} s"
            finally:
                end(process)
        outcome = Outcome(verdict, detail, round(time.monotonic() - begin, 1))
        if verdict in ("failed", "timed out"):
            print("\n".join(log.read_text(errors="replace").splitlines()[-40:]))
        return self.note(name, outcome)

    def note(self, name: str, outcome: Outcome) -> Outcome:
        """Keep and print an outcome."""
        self.outcomes[name] = outcome
        print(f"{name}: {outcome}", flush=True)
        return outcome


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started and left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all of it has ended
        return
    process.wait()


def obstacle() -> str | None:
    """Why nothing can be measured here, or None."""
    try:
        import torch
    except ImportError:
        return f"{sys.executable} has no PyTorch: make gpu PYTHON=<a Python with a CUDA build of PyTorch>"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} of {sys.executable} is not a CUDA build"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} of {sys.executable} finds no CUDA GPU"
    return None


def build(stages: Stages, compute_capability: str) -> None:
    """Build the kernels in place, for this GPU alone."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace", "--force"]
    variables = {"FASTADV_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": compute_capability}
    stages.run("build", command, LIMITS["build"], **variables)


def test(stages: Stages, seed: int) -> dict[str, int] | None:
    """Run the tests, which are parametrised over devices, on inputs drawn anew from `seed`.

    Returns their numbers, None if pytest did not finish.
    """
    junit = LOGS / "tests.xml"
    junit.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", *TESTS, f"--junitxml={junit}"]
    outcome = stages.run("tests", command, LIMITS["tests"], FASTADV_TEST_SEED=str(seed))
    counts = count_tests(junit) if junit.exists() else None
    if outcome.verdict == "passed" and not (counts and counts["on_gpu"]):
        stages.note("tests", Outcome("failed", "no test ran on the GPU", outcome.seconds))
    return counts


def count_tests(junit: Path) -> dict[str, int]:
    """Numbers of tests in pytest's JUnit file, and of those that ran on the GPU."""
    cases = list(ElementTree.parse(junit).iter("testcase"))
    tags = {"failed": "failure", "errors": "error", "skipped": "skipped"}
    counts = {name: sum(case.find(tag) is not None for case in cases) for name, tag in tags.items()}
    ran = [case for case in cases if case.find("skipped") is None]
    # By their parameters, or all of a module: test_x[cuda-...], tests.ops.test_cuda
    marks = [case.get("name", "").partition("[")[2] + case.get("classname", "") for case in ran]
    on_gpu = sum("cuda" in mark for mark in marks)
    return {"collected": len(cases), "on_gpu": on_gpu} | counts


def measure(stages: Stages) -> dict[str, Any] | None:
    """Run the benchmarks; their summary. A contender that fails costs the stage, not the others' figures."""
    measured = LOGS / "bench.json"
    measured.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks", "--device=cuda", "--benchmark-quiet"]
    stages.run("benchmarks", [*command, f"--benchmark-json={measured}"], LIMITS["benchmarks"])
    # pytest-benchmark leaves an empty file where it did not come to the end.
    if not measured.exists() or measured.stat().st_size == 0:
        return None
    from benchmarks import report

    return report.summarise(json.loads(measured.read_text()))


def sanitize(stages: Stages) -> None:
    """Run benchmarks/sanitize.py under each of compute-sanitizer's tools."""
    sanitizer = find_sanitizer()
    for tool in TOOLS:
        if sanitizer is None:
            stages.note(tool, Outcome("unavailable", "compute-sanitizer is not on PATH nor in the toolkit"))
            continue
        # PyTorch tries things that may fail, such as symbols of newer drivers, and handles it.
        options = ["--target-processes=all", "--report-api-errors=no", "--error-exitcode=1"]
        command = [sanitizer, f"--tool={tool}", *options, sys.executable, "-m", "benchmarks.sanitize"]
        # Each tensor in an allocation of its own, so that an access beyond its end is one.
        alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        stages.run(tool, command, LIMITS[tool], by_sanitizer_summary, **alone)


def find_sanitizer() -> str | None:
    """compute-sanitizer on PATH, in CUDA_HOME or in the toolkit's usual place."""
    homes = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), Path("/usr/local/cuda")]
    folders = [str(home / folder) for home in homes for folder in ("bin", "compute-sanitizer")]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ["PATH"], *folders]))


def main() -> int:
    """Run all stages; the exit status."""
    if reason := obstacle():
        print(f"make gpu: {reason}", file=sys.stderr)
        return 1
    from rich.console import Console

    from benchmarks import machine, report

    gpu = machine.describe_gpu()
    print(f"make gpu: {gpu['gpu']}, driver {gpu['driver']}, CUDA {gpu['cuda']}", flush=True)
    stages = Stages(TOTAL)
    build(stages, gpu["compute_capability"])
    seed = random.randrange(2**31)
    tests = test(stages, seed)
    measured = measure(stages) or {"machine": {}, "groups": {}}
    sanitize(stages)
    summary = measured | {
        "machine": gpu | machine.describe_software() | measured["machine"],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **machine.source_state(),
        "test_seed": seed,
        "tests": tests,
        "stages": {name: asdict(outcome) for name, outcome in stages.outcomes.items()},
    }
    Console().print(report.table(summary))
    for name, outcome in stages.outcomes.items():
        print(f"{name:10} {outcome}")
    print(f"Written to {report.write(summary)}")
    return int(any(outcome.verdict in ("failed", "timed out") for outcome in stages.outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
