"""A table of ratios, and the figures' file, from what pytest-benchmark measured.

    python -m benchmarks.report build/bench.json

writes benchmarks/results/<machine>.json.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import targets
from benchmarks.machine import ROOT, source_state

RESULTS = ROOT / "benchmarks" / "results"
OURS = ("native", "fastadv")
NUMBERS = ("ms", "GB/s", "ratio")


def summarise(measured: dict[str, Any]) -> dict[str, Any]:
    """The figures' file from pytest-benchmark's: the machine, and per group medians, quartiles, ratios."""
    groups: dict[str, Any] = {}
    for entry in measured["benchmarks"]:
        extra, stats = dict(entry["extra_info"]), entry["stats"]
        contender, moved = extra.pop("contender"), extra.pop("moved")
        figures = {
            "median_ms": round(1e3 * stats["median"], 4),
            "quartiles_ms": [round(1e3 * stats["q1"], 4), round(1e3 * stats["q3"], 4)],
            "rounds": stats["rounds"],
        }
        if moved is not None:
            figures["gb_per_s"] = round(moved / stats["median"] / 1e9, 1)
        groups.setdefault(entry["group"], {"contenders": {}})["contenders"][contender] = figures | extra
    for group in groups.values():
        medians = {name: figures["median_ms"] for name, figures in group["contenders"].items()}
        ours = next((medians[name] for name in OURS if name in medians), None)
        if ours is not None:
            group["times_as_fast_as"] = {
                name: round(median / ours, 3) for name, median in medians.items() if not name.startswith(OURS)
            }
    summary = {
        "machine": measured["machine_info"]["fastadv"],
        "date": measured["datetime"],
        **source_state(),
        "groups": groups,
    }
    wanted = targets.GPU if "gpu" in summary["machine"] else targets.CPU
    summary["targets"] = targets.verdicts(wanted, groups)
    return summary


def table(summary: dict[str, Any]) -> Table:
    """Each group's contenders, ours first, with how many times as fast ours is and what was asked for."""
    machine = summary["machine"]
    if "gpu" in machine:
        name = machine["gpu"]
    else:
        name = f"{machine['cpu']}, {machine['simd']}, {machine['threads']} threads"
    result = Table(
        title=f"{name}: medians of rounds in turn",
        caption="ratio: the contender's time over ours; a target is a ratio or a share of a bandwidth",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    for heading in ("group", "contender", "ms", "GB/s", "ratio", "target"):
        result.add_column(heading, no_wrap=True, justify="right" if heading in NUMBERS else "left")
    wanted = {(t["group"], t["against"]): t for t in summary["targets"] if t["of"] == "time"}
    shares = {t["group"]: t for t in summary["targets"] if t["of"] == "bandwidth"}
    for group, content in summary["groups"].items():
        contenders = sorted(content["contenders"].items(), key=lambda item: not item[0].startswith(OURS))
        for number, (contender, figures) in enumerate(contenders):
            factor = content.get("times_as_fast_as", {}).get(contender)
            target = shares.get(group) if contender == "native" else wanted.get((group, contender))
            result.add_row(
                "" if number else group,
                contender,
                f"{figures['median_ms']:.4g}",
                f"{figures['gb_per_s']:.0f}" if "gb_per_s" in figures else "",
                f"{factor:.2f}x" if factor else "",
                "" if target is None or target["met"] is None else words(target),
            )
    return result


def words(target: dict[str, Any]) -> str:
    """A verdict as the table shows it."""
    outcome = "[green]met[/]" if target["met"] else "[bold red]MISSED[/]"
    if target["of"] == "time":
        return f"{target['wanted']:.2f}x {outcome}"
    return f"{target['got']:.2f} of {target['against']}, {target['wanted']:.2f} {outcome}"


def path_of(machine: dict[str, Any]) -> Path:
    """The figures' file of this kind of machine."""
    return RESULTS / f"{machine['kind']}.json"


def write(summary: dict[str, Any]) -> str:
    """Write the figures' file of this kind of machine, replacing an older one; its name for the user."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = path_of(summary["machine"])
    path.write_text(json.dumps(summary, indent=1) + "\n")
    return os.path.relpath(path)


def main() -> None:
    """Print and write what `make bench` measured."""
    summary = summarise(json.loads(Path(sys.argv[1]).read_text()))
    console = Console()
    console.print(table(summary))
    for target in summary["targets"]:
        if target["met"] is None:
            console.print(f"[bold red]NOT MEASURED[/]: {target['group']} against {target['against']}")
    console.print(f"Written to {write(summary)}")


if __name__ == "__main__":
    main()
