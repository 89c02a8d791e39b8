"""The smallest perturbation on real nets: fastadv beside adv-lib and Foolbox, in l2, linf and l0.

    python examples/smallest.py            two LeNet5s and EfficientNet-Lite0: 17 minutes on two free cores
    python examples/smallest.py --quick    the same in seconds, far too small to mean anything

Each attack runs on one thread, and its CPU time is counted. What is measured goes to results.json as it
comes. A run that was ended, in whatever way, goes on from there when it is started again. docs/smallest.md
has the figures of a run.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

import studies
from fastadv.cli.errors import OneLineErrors
from fastadv.evaluation.study import OnStep, Part, Study
from fastadv.models import datasets, efficientnet_lite0, mnist_lenet5
from fastadv.models.datasets import CLASSES, Images
from fastadv.models.images import samples
from smallest_attacks import Attack, Budget, attacks, missing_peers
from smallest_report import report

NORMS = {"l2": 2.0, "linf": math.inf, "l0": 0.0}
DIGIT_NETS = {"LeNet5": "standard", "LeNet5, adversarially trained": "adversarial"}
IMAGENET = "EfficientNet-Lite0"
OUTSIDE = 1e-6
"""So far outside the box a result may be, by rounding."""

FOR_DIGITS = Budget(steps=200, search_steps=9, lr=0.01, walk=1000, l2=10, linf=1, l0=200)
FOR_PICTURES = Budget(steps=40, search_steps=5, lr=0.001, walk=200, l2=2, linf=0.05, l0=5000)

app = typer.Typer(cls=OneLineErrors, add_completion=False)


@dataclass(frozen=True)
class Settings:
    """What all results depend on.

    Attributes:
        digits, pictures: how many images that the net classifies correctly are attacked: digits (a multiple
            of ten), and at most so many of the 20 ImageNet pictures.
        digit_budget, picture_budget: how long the attacks may search.
    """

    digits: int = 30
    pictures: int = 4
    digit_budget: Budget = FOR_DIGITS
    picture_budget: Budget = FOR_PICTURES


QUICK = Settings(
    digits=10,
    pictures=1,
    digit_budget=Budget(steps=10, search_steps=2, lr=0.01, walk=6, l2=10, linf=1, l0=50),
    picture_budget=Budget(steps=10, search_steps=1, lr=0.001, walk=2, l2=2, linf=0.05, l0=50),
)


@dataclass(frozen=True)
class Subject:
    """A net, and images that it classifies correctly.

    Attributes:
        name: in tables.
        model: in eval mode.
        x, y: [B, C, H, W] in [0, 1], and [B] int64.
        budget: of the attacks on it.
    """

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    budget: Budget


@app.callback(invoke_without_command=True)
def main(
    workers: studies.Workers = None,
    quick: studies.Quick = False,
    out: studies.Out = Path("out/smallest"),
) -> None:
    """Look for the smallest perturbation with every attack, and say how small it is and what it took."""
    if missing := missing_peers():
        raise typer.BadParameter(f"the libraries compared with are not installed: {', '.join(missing)}")
    settings = QUICK if quick else Settings()
    workers = workers or studies.cores()
    with studies.errors_by_option():
        subjects = load_subjects(settings)
        study = Study(out, asdict(settings), studies.about(workers))
        studies.run(study, {"attacks": list(parts(subjects))}, workers)
        text = report(study, {subject.name: len(subject.y) for subject in subjects}, list(NORMS))
        (out / "report.md").write_text(text, encoding="utf-8")
    studies.show(text, f"report.md and results.json are in {out}")


def load_subjects(settings: Settings) -> list[Subject]:
    """The nets with their images; the digits are drawn with a fixed seed, the same number of each class."""
    digits = datasets.digits()
    order = torch.randperm(len(digits.y), generator=torch.Generator().manual_seed(0))
    subjects = []
    for name, trained in DIGIT_NETS.items():
        model = mnist_lenet5("standard" if trained == "standard" else "adversarial")
        right = correct(model, Images(digits.x[order], digits.y[order]))
        each = [
            (right.y == label).nonzero().squeeze(1)[: settings.digits // CLASSES] for label in range(CLASSES)
        ]
        rows = torch.cat(each)
        subjects.append(Subject(name, model, right.x[rows], right.y[rows], settings.digit_budget))
    pictures = efficientnet_lite0()
    right = correct(pictures, Images(*samples("imagenet", 224)))
    x, y = right.x[: settings.pictures], right.y[: settings.pictures]
    return [*subjects, Subject(IMAGENET, pictures, x, y, settings.picture_budget)]


@torch.no_grad()
def correct(model: nn.Module, images: Images) -> Images:
    """Those that the model classifies correctly."""
    right = torch.cat([model(x).argmax(1) for x in images.x.split(100)]) == images.y
    return Images(images.x[right], images.y[right])


def parts(subjects: Sequence[Subject]) -> Iterator[Part]:
    """Every attack in every norm on every net."""
    for subject in subjects:
        for norm, p in NORMS.items():
            for name, attack in attacks(p, subject.budget).items():
                yield Part(
                    f"{subject.name}: {norm}: {name}",
                    spec=attack.spec,
                    cost=attack.evaluations * subject.x[0].numel() * len(subject.y),
                    compute=partial(measured, subject, attack, p),
                )


def measured(subject: Subject, attack: Attack, norm: float, on_step: OnStep) -> dict[str, Any]:
    """The distance of each result, None where it is no success, the evaluations of the model, the time.

    Of an attack of another library that raises an error: that error.
    """
    x, y, model = subject.x, subject.y, Counted(subject.model)
    start = time.thread_time()
    try:
        x_adv = attack.run(model, x, y, on_step)
    except IndexError as error:  # Foolbox's FMN in l0, where all elements are to be kept
        if not attack.foreign:
            raise
        return {"failed": f"{type(error).__name__}: {error}"}
    seconds = time.thread_time() - start
    if x_adv.min() < -OUTSIDE or x_adv.max() > 1 + OUTSIDE:
        raise RuntimeError(f"{attack.spec} left the box")
    with torch.no_grad():
        success = subject.model(x_adv).argmax(1) != y
    delta = (x_adv - x).flatten(1).double()
    distance = (delta != 0).sum(1).double() if norm == 0 else delta.norm(p=norm, dim=1)
    return {
        "distance": [
            round(d, 6) if ok else None for d, ok in zip(distance.tolist(), success.tolist(), strict=True)
        ],
        "evaluations": model.rows / len(y),
        "seconds": seconds,
    }


class Counted(nn.Module):
    """A model, and how many images it was shown."""

    def __init__(self, model: nn.Module) -> None:
        """None yet."""
        super().__init__()
        self.model, self.rows = model, 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.rows += len(x)
        logits: Tensor = self.model(x)
        return logits


if __name__ == "__main__":
    app()
