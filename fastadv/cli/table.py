"""The attack's results in the terminal."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fastadv.evaluation import Experiment, Prediction, Results, percent
from fastadv.models import class_name
from fastadv.models.text import printable

SURVIVED = "\N{CHECK MARK}"
SURE = 0.99
"""A confidence that counts as the target reached beyond doubt."""


def table(results: Results, experiment: Experiment) -> Table:
    """One line for each image: what the model said before and after each attack.

    Names of files and classes are shown as they are: nothing in them is markup.
    """
    view = Table(box=SIMPLE_HEAD)
    view.add_column("image", no_wrap=True, max_width=28)
    view.add_column("before")
    for goal in experiment.goals:
        view.add_column(Text(printable(goal.heading(experiment.class_names))))
    for record in results.records:
        before = _words(record.before)
        if record.truth not in (None, record.before.name):
            before.append(printable(f" (is: {record.truth})"), style="dim")
        cells = [Text(printable(Path(record.file).name)), before]
        for goal in experiment.goals:
            outcome = record.outcomes[goal.kind]
            cell = _words(outcome.prediction, style="red" if outcome.success else "")
            if outcome.survived:
                cell.append(f"\N{NO-BREAK SPACE}{SURVIVED}", style="green")
            cells.append(cell)
        view.add_row(*cells)
    return view


def summary(results: Results, experiment: Experiment) -> str:
    """How many images each attack broke, how many of the saved files still are broken, and where they are."""
    images = len(results.records)
    lines = [f"{SURVIVED} the saved 8-bit PNG, read back, fools the model as well"]
    for goal in experiment.goals:
        broken = results.count(goal.kind)
        if goal.target is None:
            what = f"misclassified within {experiment.radius}"
        else:
            sure = results.count(goal.kind, confidence=SURE)
            name = class_name(goal.target, experiment.class_names)
            what = f"taken for {name}, {sure} of them with confidence >= {SURE}"
        survived = results.count(goal.kind, survived=True)
        lines.append(f"{broken} of {images} {what} ({survived} of {images} as saved 8-bit PNGs)")
    lines.append(f"Figures, PNGs and results.json are in {experiment.out}")
    return "\n".join(map(printable, lines))


def _words(prediction: Prediction, style: str = "") -> Text:
    return Text.assemble((printable(prediction.name), style), (f" {percent(prediction.confidence)}", "dim"))
