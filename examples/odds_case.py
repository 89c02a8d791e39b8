"""What examples/odds.py does: attack models, and ask their detectors, part by part."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastadv import PGD, OddsAreOdd
from fastadv.defenses import Gaps, train
from fastadv.defenses.odds_statistics import held_out_cutoff
from fastadv.evaluation import Roc, Samples, roc, tune
from fastadv.evaluation.study import OnStep, Part, Study
from fastadv.models.datasets import Images
from fastadv.models.mnist import LeNet5
from kept_nets import drawn, keep, predict, restore
from odds_attacks import BATCH, CLEAN, Settings, table_rows
from odds_splits import false_positives
from odds_verdicts import VARIANTS, Scored, Variant, on_box, read_verdicts, verdicts

HELD_OUT = "held out"
SECONDS = 3.5e-4
"""A forward pass of one image takes LeNet5 about so long on one core."""


class Subject(NamedTuple):
    """A model and its images: the detector's statistics are of `fit`, thresholds of `held_out`.

    Attributes:
        name: as it is called in results.json.
        make: returns the model, in eval mode; None where it is to be trained on `trained_on`.
    """

    name: str
    make: Callable[[], nn.Module] | None
    fit: Images
    held_out: Images
    test: Images
    trained_on: Images | None = None


class Case:
    """The subjects, what is done to them, and the study that keeps what came of it."""

    def __init__(self, settings: Settings, study: Study, subjects: Sequence[Subject]) -> None:
        """A study, nothing of it done yet."""
        self.settings = settings
        self.study = study
        self.subjects = subjects
        self.rows = table_rows(settings)

    def stages(self) -> dict[str, list[Part]]:
        """Parts by what they do; those of a stage need what the stages before it left."""
        noises = (True, False)
        made_for: dict[str, list[Variant | None]] = {
            "nothing": [None],
            "noise": [Variant(clipped, two_sided=False) for clipped in noises],
            "detector": [*VARIANTS],
        }
        attacks = {
            knows: [
                self.scoring(subject, name, variant)
                for subject in self.subjects
                for name, row in self.rows.items()
                if row.knows == knows
                for variant in variants
            ]
            for knows, variants in made_for.items()
        }
        held_out = [self.scoring(subject, HELD_OUT, None) for subject in self.subjects]
        return {
            "training": [self.training(subject) for subject in self.subjects if subject.make is None],
            "tuning": [self.tuning(subject, clipped) for subject in self.subjects for clipped in noises],
            "fitting": [self.fitting(subject, clipped) for subject in self.subjects for clipped in noises],
            "dividing": [self.dividing(subject, clipped) for subject in self.subjects for clipped in noises],
            "attacking": [*held_out, *attacks["nothing"], *attacks["noise"]],
            "evading": attacks["detector"],
        }

    def training(self, subject: Subject) -> Part:
        """Train a LeNet5, and count the images of its test that it gets right."""
        s, path = self.settings, self.file("weights", subject.name)
        assert subject.trained_on is not None
        trained_on = subject.trained_on

        def compute(on_step: OnStep) -> dict[str, Any]:
            model = self.untrained()
            train(model, *trained_on, epochs=s.epochs, learning_rate=0.05, seed=s.seed, on_step=on_step)
            keep(model, path)
            return {}

        cost = 3 * s.epochs * len(trained_on.y) * SECONDS
        return Part(f"{subject.name}: training", "", cost, compute, file=path)

    def untrained(self) -> LeNet5:
        """With random weights, always the same."""
        with drawn(self.settings.seed):
            return LeNet5()

    def model(self, subject: Subject) -> nn.Module:
        """The subject's model, in eval mode."""
        if subject.make is not None:
            return subject.make()
        return restore(self.untrained(), self.file("weights", subject.name))

    def file(self, folder: str, name: str) -> Path:
        """Where something is kept that results.json is no place for."""
        path = self.study.path.parent / folder / name
        path.parent.mkdir(exist_ok=True)
        return path

    def tuning(self, subject: Subject, clipped: bool) -> Part:
        """Choose the noise by attacks on images that the statistics, and nothing else, will be of.

        By PGD that goes on to the end and PGD that stops when it succeeds, in equal parts: the one is found
        by almost any noise.
        """
        s = self.settings
        n, half = s.tuning_images, s.tuning_images // 2

        def compute(on_step: OnStep) -> dict[str, Any]:
            model = self.model(subject)
            x, y = subject.fit

            def samples(first: int) -> Samples:
                part = slice(first, first + half)
                fooling = []
                for early_stop in (False, True):
                    attack = PGD(eps=s.at, steps=s.steps, early_stop=early_stop, seed=s.seed)
                    result = attack.run(model, x[part], y[part])
                    fooling.append(result.x_adv[result.success])
                return Samples(x[part], torch.cat(fooling))

            found = tune(
                model,
                x[:n],
                samples(n),
                samples(n + half),
                kinds=s.kinds,
                scales=s.scales,
                fpr=s.fpr[0],
                batch_size=BATCH,
                on_step=on_step,
                draws=s.tuning_draws,
                bounds=bounds(clipped),
                seed=s.seed,
            )
            true, false = found.true_positives, found.false_positives
            return {
                "tried": [[*tried.noise, tried.tpr, tried.roc.area] for tried in found.candidates],
                "chosen": found.chosen.noise,
                "true positives": [true.count, true.n],
                "false positives": [false.count, false.n],
                "area": found.roc.area,
            }

        cost = 2.5 * n * s.tuning_draws * len(s.kinds) * len(s.scales) * SECONDS
        return Part(f"{subject.name}: tuning, {on_box(clipped)}", "", cost, compute)

    def tuning_of(self, subject: Subject, clipped: bool) -> dict[str, Any]:
        """What `tuning` found."""
        return self.study[f"{subject.name}: tuning, {on_box(clipped)}"]

    def fitting(self, subject: Subject, clipped: bool) -> Part:
        """Fit a detector and its correction, and save it."""
        s = self.settings
        path = self.file("detectors", f"{subject.name}, {on_box(clipped)}.safetensors")

        def compute(on_step: OnStep) -> dict[str, Any]:
            detector = OddsAreOdd(
                self.model(subject),
                [self.tuning_of(subject, clipped)["chosen"]],
                s.draws,
                bounds=bounds(clipped),
                seed=s.seed,
            )
            detector.fit(batches(subject.fit, on_step), quiet=True)
            attack = PGD(eps=s.at, steps=s.steps, early_stop=False, seed=s.seed)
            few = Images(*(values[: s.correction_images] for values in subject.fit))
            detector.fit_correction(batches(few), attack, quiet=True)
            detector.save(path)
            return {"unknown": detector.unknown}

        cost = ((s.fit_images + s.correction_images) * s.draws + 3 * s.steps * s.correction_images) * SECONDS
        return Part(f"{subject.name}: fitting, {on_box(clipped)}", "", cost, compute, file=path)

    def detector(self, subject: Subject, model: nn.Module, clipped: bool) -> OddsAreOdd:
        """What `fitting` saved."""
        path = self.file("detectors", f"{subject.name}, {on_box(clipped)}.safetensors")
        return OddsAreOdd.load(path, model)

    def dividing(self, subject: Subject, clipped: bool) -> Part:
        """Count false positives on many divisions of all of the subject's images, by the same noise."""
        s = self.settings
        every = Images(
            *(torch.cat(parts) for parts in zip(subject.fit, subject.held_out, subject.test, strict=True))
        )

        def compute(on_step: OnStep) -> dict[str, Any]:
            detector = self.detector(subject, self.model(subject), clipped)
            parts = [detector.gaps(x) for x, _ in batches(every, on_step)]
            gaps = Gaps(
                *(torch.cat([part[field] for part in parts], dim=1 if field > 1 else 0) for field in range(4))
            )
            sizes = [len(part.y) for part in (subject.fit, subject.held_out, subject.test)]
            found = false_positives(gaps, sizes, s.fpr, splits=s.splits, seed=s.seed)
            return {
                side: {fpr: " ".join(map(str, counts)) for fpr, counts in by_rate.items()}
                for side, by_rate in found.items()
            }

        cost = len(every.y) * (s.draws + s.splits / 3) * SECONDS
        return Part(f"{subject.name}: dividing, {on_box(clipped)}", "", cost, compute)

    def divided(self, subject: Subject, variant: Variant, fpr: float) -> list[int]:
        """False positives among the test images of each division."""
        found = self.study[f"{subject.name}: dividing, {on_box(variant.clipped)}"]
        return [int(count) for count in found["two" if variant.two_sided else "one"][f"{fpr:g}"].split()]

    def scoring(self, subject: Subject, name: str, variant: Variant | None) -> Part:
        """Attack images, and see what the detectors say of what came of it.

        Args:
            subject: whose model and images.
            name: of a row, or `HELD_OUT`: as `CLEAN`, on the images for the thresholds.
            variant: what the attack is made for, and scored by: its noise, or that and its sides, as
                `Row.knows` says; None: every variant scores it.
        """
        s = self.settings
        row = self.rows[CLEAN] if name == HELD_OUT else self.rows[name]
        images = subject.held_out if name == HELD_OUT else subject.test
        if name != HELD_OUT:
            images = Images(*(values[: row.images] for values in images))
        noises = (True, False) if variant is None else (variant.clipped,)
        cost = len(images.y) * (row.evaluations + s.draws * len(noises)) * SECONDS
        share = row.evaluations / (row.evaluations + s.draws * len(noises))

        def compute(on_step: OnStep) -> dict[str, Any]:
            model = self.model(subject)
            detectors = {clipped: self.detector(subject, model, clipped) for clipped in noises}
            x, y = images
            known = detectors[noises[0]]
            if row.knows == "detector":
                assert variant is not None
                known.two_sided, known.cutoff = variant.two_sided, self.cutoff(subject, variant, s.fpr[-1])
            x_adv = row.make(model, known, x)(
                model, x, y, on_step=lambda step, steps: on_step(round(1000 * share * step / steps), 1000)
            )
            inside = (x_adv - x).abs().flatten(1).amax(1) <= row.eps
            before, after = predict(model, x, BATCH), predict(model, x_adv, BATCH)
            fooled = (before == y) & (after != y) & inside
            success = fooled if row.eps > 0 else torch.ones_like(fooled)  # of clean images all count
            return verdicts(detectors, x_adv, success, after, s.kept_draws)

        title = self.scoring_name(subject, name, variant)
        return Part(title, f"eps {row.eps:g}, {len(images.y)} images", cost, compute)

    def scoring_name(self, subject: Subject, name: str, variant: Variant | None) -> str:
        """The name of a part of `scoring`."""
        knows = "nothing" if name == HELD_OUT else self.rows[name].knows
        if variant is None or knows == "nothing":
            return f"{subject.name}: {name}"
        return f"{subject.name}: {name}, {variant if knows == 'detector' else on_box(variant.clipped)}"

    def scored(self, subject: Subject, name: str, variant: Variant) -> Scored:
        """What `scoring` found, as one variant sees it."""
        result = self.study[self.scoring_name(subject, name, variant)]
        images = subject.held_out if name == HELD_OUT else subject.test
        return read_verdicts(result, variant, images.y, self.settings.kept_draws)

    def cutoff(self, subject: Subject, variant: Variant, fpr: float) -> float:
        """The cutoff that the held-out images set."""
        return held_out_cutoff(self.scored(subject, HELD_OUT, variant).score, fpr)

    def roc(self, subject: Subject, name: str, variant: Variant) -> Roc:
        """Of the clean test images and an attack's successes; there must be some."""
        clean, attacked = (self.scored(subject, row, variant).positives() for row in (CLEAN, name))
        return roc(clean, attacked)


def bounds(clipped: bool) -> tuple[float, float] | None:
    """The same for `OddsAreOdd`."""
    return (0.0, 1.0) if clipped else None


def batches(images: Images, on_step: OnStep = lambda step, steps: None) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (x, y), and on_step(images done, all images) after each."""
    done = 0
    for x, y in zip(images.x.split(BATCH), images.y.split(BATCH), strict=True):
        yield x, y
        done += len(y)
        on_step(done, len(images.y))
