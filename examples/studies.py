"""What the studies in this folder share: where they ran, and a progress bar over their parts."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import fastadv
from fastadv.evaluation.study import Part, Study


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def about(workers: int) -> dict[str, Any]:
    """Where and when a study is made, for its results.json."""
    return {
        **fastadv.build_info(),
        "date": datetime.now(UTC).date().isoformat(),
        "workers": workers,
        "load at the start": [round(load, 1) for load in os.getloadavg()],
    }


def run(study: Study, stages: Mapping[str, Sequence[Part]], workers: int) -> None:
    """Compute what is missing, stage by stage, under a progress bar."""
    missing = [study.missing(parts) for parts in stages.values()]
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        speed_estimate_period=180,
    )
    with progress:
        task = progress.add_task("", total=sum(part.cost for parts in missing for part in parts))
        for stage, parts in stages.items():
            progress.update(task, description=stage)
            study.run(parts, workers=workers, on_progress=partial(progress.advance, task))
