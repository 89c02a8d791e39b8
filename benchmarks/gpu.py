"""`make gpu`: build, test, measure and sanitize on this machine's GPU, and write down what came of it.

    make gpu STAGES="build tests" MINUTES=9
    make gpu STAGES="benchmarks memcheck racecheck initcheck synccheck" MINUTES=9

Needs a CUDA build of PyTorch in the Python that runs this, nvcc, pytest, pytest-benchmark and hypothesis;
downloads nothing. Every stage has a time limit, and all together where MINUTES are given; one that fails is
recorded and the others still run. Writes benchmarks/results/<GPU>.json and exits with 1 if anything failed;
stages that are not run keep what the file says of them, if it is of the same sources. Logs are in build/gpu/.
A copy of the sources without their repository is told its commit by FASTADV_COMMIT.
"""

import argparse
import datetime
import json
import math
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "build" / "gpu"
TESTS = ["tests/ops", "tests/attacks"]
TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"]  # of compute-sanitizer
LIMITS = {"build": 300, "tests": 900, "benchmarks": 900} | dict.fromkeys(TOOLS, 300)  # seconds, in order
GRACE = 15  # seconds to write down what was measured, once a limit is over
MOST_WORKERS = 4  # that share the GPU in tests, where pytest-xdist is installed

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
                preexec_fn=heed_interrupts,
            )
            try:
                verdict, detail = read(process.wait(limit), log.read_text(errors="replace"))
            except subprocess.TimeoutExpired:
                verdict, detail = "timed out", f"stopped after {limit:.0f} s"
                interrupt(process)
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


def heed_interrupts() -> None:
    """What runs in the background of a shell ignores them, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Let the process write down what it has, for some seconds: pytest does when it is interrupted."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        return


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
    if find_spec("xdist"):
        command.append(f"--numprocesses={min(MOST_WORKERS, os.cpu_count() or 1)}")
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


def sanitize(stages: Stages, tools: Sequence[str]) -> None:
    """Run benchmarks/sanitize.py under some of compute-sanitizer's tools."""
    sanitizer = find_sanitizer()
    for tool in tools:
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


def kept_figures(about: dict[str, Any]) -> dict[str, Any]:
    """What the GPU's file says, if it is of the same sources; else nothing."""
    from benchmarks import machine, report

    path = report.path_of(about)
    written = json.loads(path.read_text()) if path.exists() else {}
    state = machine.source_state()
    known = state["commit"] != "unknown" and state["clean"] is not False
    return written if known and written.items() >= state.items() else {}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The stages to run, in their order, and the minutes for all."""
    parser = argparse.ArgumentParser(prog="make gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(LIMITS)}; all if none is named")
    parser.add_argument("--minutes", type=float, default=math.inf, help="for all stages together")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.stages if name not in LIMITS]:
        parser.error(f"no such stage: {unknown[0]}; there are {', '.join(LIMITS)}")
    options.stages = [name for name in LIMITS if name in (options.stages or LIMITS)]
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the stages; the exit status."""
    options = parse(arguments)
    if reason := obstacle():
        print(f"make gpu: {reason}", file=sys.stderr)
        return 1
    from rich.console import Console

    from benchmarks import machine, report, targets

    gpu = machine.describe_gpu()
    print(f"make gpu: {gpu['gpu']}, driver {gpu['driver']}, CUDA {gpu['cuda']}", flush=True)
    stages = Stages(60 * options.minutes)
    summary: dict[str, Any] = {"machine": {}, "groups": {}, "tests": None, "stages": {}} | kept_figures(gpu)
    if "build" in options.stages:
        build(stages, gpu["compute_capability"])
    if "tests" in options.stages:
        summary["test_seed"] = random.randrange(2**31)
        summary["tests"] = test(stages, summary["test_seed"])
    if "benchmarks" in options.stages and (measured := measure(stages)):
        summary["groups"], summary["machine"] = measured["groups"], measured["machine"]
    sanitize(stages, [tool for tool in TOOLS if tool in options.stages])
    summary |= {
        "machine": gpu | machine.describe_software() | summary["machine"],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **machine.source_state(),
        "targets": targets.verdicts(targets.GPU, summary["groups"]),
        "stages": summary["stages"] | {name: asdict(outcome) for name, outcome in stages.outcomes.items()},
    }
    Console().print(report.table(summary))
    for name, outcome in stages.outcomes.items():
        print(f"{name:10} {outcome}")
    print(f"Written to {report.write(summary)}")
    return int(any(outcome.verdict in ("failed", "timed out") for outcome in stages.outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
