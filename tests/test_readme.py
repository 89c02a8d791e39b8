"""The README's GPU part is what its command makes of the measured figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme, report

ROOT = Path(__file__).parents[1]


def traffic(group: str, contender: str, median: float, moved: int | None = None) -> dict[str, Any]:
    """An entry of pytest-benchmark's file."""
    stats = {"median": median, "q1": median, "q3": median, "rounds": 5}
    return {"group": group, "extra_info": {"contender": contender, "moved": moved}, "stats": stats}


@pytest.fixture
def measured() -> dict[str, Any]:
    """The summary of a GPU that never was."""
    entries = [
        traffic("copy", "copy", 0.001, 2_000_000_000),
        traffic("write", "write", 0.001, 1_500_000_000),
        traffic("pgd_step linf fp32", "native", 0.001, 1_900_000_000),
        *(
            traffic(f"kwta {cols} fp32 normal", contender, median, moved)
            for cols, slow in ((8192, 0.009), (16384, 0.012))
            for contender, median, moved in (
                ("native", 0.001, 1_000_000_000),
                ("topk + scatter", slow, None),
                ("topk + compare", 0.020, None),
            )
        ),
        traffic("PGD-40 linf ResNet-18 batch 32", "fastadv", 0.100),
        traffic("PGD-40 linf ResNet-18 batch 32", "torchattacks", 0.150),
        traffic("PGD-40 linf ResNet-18 batch 32", "model only", 0.090),
    ]
    machine = {"kind": "toy-gpu", "gpu": "Toy GPU", "torch": "2.11.0", "driver": "580.1"}
    summary = report.summarise(
        {"benchmarks": entries, "datetime": "2026-01-02T03:04", "machine_info": {"fastadv": machine}}
    )
    stages = {"tests": {"verdict": "passed"}, "memcheck": {"verdict": "failed"}}
    return summary | {"stages": stages, "commit": "0123456789"}


def test_the_readme_says_what_the_figures_say() -> None:
    text = (ROOT / "README.md").read_text()
    summaries = readme.gpu_summaries(ROOT / "benchmarks" / "results")
    assert readme.with_section(text, readme.section(summaries)) == text


def test_without_a_gpu_s_figures_there_is_a_line_that_says_so() -> None:
    assert readme.section([]) == readme.NOTHING


def test_every_target_has_a_row_and_misses_are_named(measured: dict[str, Any]) -> None:
    lines = readme.section([measured]).splitlines()
    assert lines[0] == (
        "On one Toy GPU (PyTorch 2.11.0, driver 580.1, commit 0123456, 2026-01-02; `make gpu`): "
        "tests passed, memcheck failed."
    )
    assert "| `pgd_step linf fp32` | copy bandwidth | 0.90 | 0.95 | met |" in lines
    assert "| `kwta` | copy bandwidth | 0.60 | 0.50 | **0 of 9 met** |" in lines
    of_time = "10.00 times as fast"
    assert f"| `kwta` | topk + scatter | {of_time} | 9.00 to 12.00 times as fast | **1 of 36 met** |" in lines
    assert "| `cw_step fp32` | copy bandwidth | 0.85 | not measured | **0 of 1 met** |" in lines
    assert "| PGD-40 linf ResNet-18 batch 32 | 100.0 ms | 10.0 % | torchattacks 1.50 |" in lines


def test_the_picture_has_a_bar_for_each_kernel_and_a_roof_for_plain_traffic(measured: dict[str, Any]) -> None:
    axes = readme.draw(measured).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [1900.0, 1000.0, 1000.0]
    assert [line.get_xdata()[0] for line in axes.lines] == [2000.0, 1500.0]


def test_the_command_writes_the_part_and_leaves_the_rest(tmp_path: Path, measured: dict[str, Any]) -> None:
    around = f"before\n\n{readme.BEGIN}\n\nold\n\n{readme.END}\nafter\n"
    (tmp_path / "README.md").write_text(around)
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "toy-gpu.json").write_text(json.dumps(measured))
    readme.main(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"before\n\n{readme.BEGIN}\n\nOn one Toy GPU")
    assert text.endswith(f"\n\n{readme.END}\nafter\n")
    assert "(docs/images/bandwidth-toy-gpu.svg)" in text
    assert (tmp_path / "docs/images/bandwidth-toy-gpu.svg").read_text().startswith("<?xml")
