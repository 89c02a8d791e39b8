"""The GPU part of the README and its pictures, from what `make gpu` measured.

    python -m benchmarks.readme

writes between the README's marks what benchmarks/results has of GPUs, and docs/images/bandwidth-<GPU>.svg.
"""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.machine import ROOT

BEGIN, END = "<!-- what python -m benchmarks.readme writes -->", "<!-- until here -->"
NOTHING = "GPU figures are not measured yet: `make gpu` measures them on a machine with a CUDA GPU."
TRAFFIC = ("copy", "read", "write")

Summary = dict[str, Any]


def gpu_summaries(results: Path) -> list[Summary]:
    """The figures' files of GPUs, in the order of their names."""
    summaries = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    return [summary for summary in summaries if "gpu" in summary["machine"]]


def section(summaries: list[Summary]) -> str:
    """What the README says of GPUs."""
    return "\n\n".join(map(of_one_gpu, summaries)) or NOTHING


def of_one_gpu(summary: Summary) -> str:
    """One GPU's stages, its targets with what was measured, and its end-to-end times."""
    machine = summary["machine"]
    stages = ", ".join(f"{name} {stage['verdict']}" for name, stage in summary["stages"].items())
    lines = [
        f"On one {machine['gpu']} (PyTorch {machine['torch']}, driver {machine['driver']}, commit "
        f"{summary['commit'][:7]}, {summary['date'][:10]}; `make gpu`): {stages}.",
        "",
        f"![Bandwidth of the kernels]({picture_of(machine)})",
        "",
        "| | compared with | wanted | measured | |",
        "| --- | --- | --- | --- | --- |",
        *target_rows(summary["targets"]),
    ]
    if rows := end_to_end_rows(summary["groups"]):
        lines += [
            "",
            "| | time | outside the model | others' time over ours |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    return "\n".join(lines)


def target_rows(targets: list[dict[str, Any]]) -> list[str]:
    """A row for each operator and contender: the groups' lowest and highest figure, and how many are met."""

    def kind(target: dict[str, Any]) -> tuple[str, str, str, float]:
        name = target["group"]
        what = name.split()[0] if name.startswith("kwta") else name
        return what, target["of"], target["against"], target["wanted"]

    rows = []
    for (what, of, against, wanted), group in groupby(sorted(targets, key=kind), key=kind):
        verdicts = list(group)
        got = [target["got"] for target in verdicts if target["met"] is not None]
        met = sum(target["met"] is True for target in verdicts)
        unit, other = ("", f"{against} bandwidth") if of == "bandwidth" else (" times as fast", against)
        measured = "not measured"
        if got:
            low, high = min(got), max(got)
            measured = f"{low:.2f}{unit}" if low == high else f"{low:.2f} to {high:.2f}{unit}"
        outcome = "met" if met == len(verdicts) else f"**{met} of {len(verdicts)} met**"
        rows.append(f"| `{what}` | {other} | {wanted:.2f}{unit} | {measured} | {outcome} |")
    return rows


def end_to_end_rows(groups: dict[str, Any]) -> list[str]:
    """A row for each attack on a net: its time, the share that is not the model's, and the others'."""
    rows = []
    for name, group in groups.items():
        medians = {who: figures["median_ms"] for who, figures in group["contenders"].items()}
        if not name.startswith("PGD-40") or not {"fastadv", "model only"} <= medians.keys():
            continue
        share = 1 - medians["model only"] / medians["fastadv"]
        others = ", ".join(
            f"{who} {factor:.2f}" for who, factor in group["times_as_fast_as"].items() if who != "model only"
        )
        rows.append(f"| {name} | {medians['fastadv']:.1f} ms | {100 * share:.1f} % | {others} |")
    return rows


def picture_of(machine: dict[str, Any]) -> str:
    """Where the picture of a GPU is, from the README."""
    return f"docs/images/bandwidth-{machine['kind']}.svg"


def draw(summary: Summary) -> Figure:
    """Bandwidths that the kernels reach, under the roofs of plain traffic: each moves its floor of bytes."""
    contenders = {name: group["contenders"] for name, group in summary["groups"].items()}
    reached = {
        name: who["native"]["gb_per_s"]
        for name, who in contenders.items()
        if "gb_per_s" in who.get("native", {})
    }
    figure = Figure(figsize=(8, 1.2 + 0.2 * len(reached)), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(reached), list(reached.values()), color="#4477aa")
    for kind, style in zip(TRAFFIC, ("-", "--", ":"), strict=True):
        if kind in contenders:
            bandwidth = contenders[kind][kind]["gb_per_s"]
            axes.axvline(bandwidth, color="black", linestyle=style, label=f"{kind}: {bandwidth:.0f}")
    axes.invert_yaxis()
    axes.set_xlabel("GB/s: the bytes that any implementation must move, over the median time")
    axes.set_title(summary["machine"]["gpu"])
    axes.legend(title="plain traffic", loc="lower right")
    return figure


def with_section(readme: str, text: str) -> str:
    """The README with another text between the marks."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}"


def main(root: Path = ROOT) -> None:
    """Write the README's part and the pictures."""
    summaries = gpu_summaries(root / "benchmarks" / "results")
    readme = root / "README.md"
    for summary in summaries:
        path = root / picture_of(summary["machine"])
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(summary).savefig(path)
    readme.write_text(with_section(readme.read_text(), section(summaries)))


if __name__ == "__main__":
    main()
