"""The odds are odd, on real data: how often a detector flags clean images, and every attack on it.

    python examples/odds.py            5,000 handwritten digits, about 16 minutes on two free cores
    python examples/odds.py --quick    the same in seconds, far too small to mean anything

What is measured goes to results.json as it comes. A run that was ended, in whatever way, goes on from there
when it is started again. docs/odds.md has the protocol, and the figures of a run.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

import studies
from fastadv.cli.errors import OneLineErrors
from fastadv.evaluation.detection_plots import roc_figure, score_figure
from fastadv.evaluation.study import Study
from fastadv.models import datasets, mnist_lenet5
from fastadv.models.datasets import CLASSES, Images
from odds_attacks import CLEAN, EOT_MATCHING, EVASION, MATCHING, QUICK, STOPPING, Settings, pgd_name
from odds_case import Case, Subject
from odds_report import report
from odds_verdicts import MAIN

app = typer.Typer(cls=OneLineErrors, add_completion=False)


@app.callback(invoke_without_command=True)
def main(
    fashion: Annotated[Path | None, studies.fashion_option("for a net of its own beside the digits")] = None,
    workers: studies.Workers = None,
    quick: studies.Quick = False,
    out: studies.Out = Path("out/odds"),
) -> None:
    """Fit detectors to clean images, attack model and detector in every way, and say what the figures say."""
    settings = QUICK if quick else Settings()
    workers = workers or studies.cores()
    with studies.errors_by_option():
        subjects = load_subjects(settings, fashion)
        case = Case(settings, Study(out, asdict(settings), studies.about(workers)), subjects)
        studies.run(case.study, case.stages(), workers)
        text = report(case)
        (out / "report.md").write_text(text, encoding="utf-8")
        for subject in subjects:
            draw(case, subject, out)
    left_out = [studies.FASHION_LEFT_OUT] if fashion is None else []
    studies.show(text, *left_out, f"report.md, results.json and figures are in {out}")


def load_subjects(settings: Settings, fashion: Path | None) -> list[Subject]:
    """The digits with their LeNet5, and the net for Fashion-MNIST, `fashion` as in --fashion.

    That net is trained on images of Fashion-MNIST's training set, and its detector only sees the test set.
    """
    sizes = (settings.fit_images, settings.held_out_images, settings.test_images)
    fit, held_out, test = stratified(datasets.digits(), sizes, seed=settings.seed)
    subjects = [Subject("digits", partial(mnist_lenet5, "standard"), fit, held_out, test)]
    if fashion is not None:
        whole, unseen = (datasets.fashion_mnist(part, fashion) for part in ("train", "test"))
        (trained_on,) = stratified(whole, (settings.train_images,), seed=settings.seed)
        fit, held_out, test = stratified(unseen, sizes, seed=settings.seed)
        subjects.append(Subject("fashion-mnist", None, fit, held_out, test, trained_on))
    return subjects


def stratified(images: Images, sizes: Sequence[int], *, seed: int) -> list[Images]:
    """Disjoint parts drawn at random, in random order, each with the same number of images of every class.

    Raises:
        ValueError: a size is no multiple of the number of classes, or a class has too few images.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images.y), generator=generator)
    by_class = [order[images.y[order] == label] for label in range(CLASSES)]
    if any(size % CLASSES for size in sizes) or min(map(len, by_class)) < sum(sizes) // CLASSES:
        raise ValueError(f"stratified: no parts of {list(sizes)} images in {CLASSES} classes of equal size")
    parts, first = [], 0
    for size in sizes:
        last = first + size // CLASSES
        part = torch.cat([rows[first:last] for rows in by_class])
        part = part[torch.randperm(size, generator=generator)]
        parts.append(Images(images.x[part], images.y[part]))
        first = last
    return parts


def draw(case: Case, subject: Subject, out: Path) -> None:
    """Scores and ROC curves of the authors' own test, clean images against the attacks of most interest."""
    names = (pgd_name(case.settings.at), STOPPING, MATCHING, EOT_MATCHING, EVASION)
    found = {name: case.scored(subject, name, MAIN) for name in names}
    found = {name: scored for name, scored in found.items() if scored.success.any()}
    scores = {CLEAN: case.scored(subject, CLEAN, MAIN).positives()}
    # Logit matching would lie on PGD, and five histograms are enough for one picture.
    scores |= {name: scored.positives() for name, scored in found.items() if name != MATCHING}
    figures = {
        "scores": score_figure(scores, case.cutoff(subject, MAIN, case.settings.fpr[-1])),
        "roc": roc_figure({name: case.roc(subject, name, MAIN) for name in found}),
    }
    for name, figure in figures.items():
        figure.savefig(out / f"{subject.name}-{name}.png", dpi=120)


if __name__ == "__main__":
    app()
