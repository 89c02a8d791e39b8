"""What examples/odds.py works on: models, their images, their detectors, and what these say of attacks."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastadv import PGD, OddsAreOdd, ops
from fastadv.defenses import Gaps, train
from fastadv.defenses.odds_statistics import held_out_cutoff
from fastadv.evaluation import Roc, Samples, roc, tune
from fastadv.evaluation.statistics import Rate
from fastadv.evaluation.study import OnStep, Part, Study
from fastadv.models.datasets import Images
from fastadv.models.mnist import LeNet5
from odds_attacks import BATCH, CLEAN, Settings, table_rows
from odds_splits import false_positives

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


class Variant(NamedTuple):
    """A way to test: noisy copies clamped to the box or not, scores by z or by |z|."""

    clipped: bool
    two_sided: bool

    def __str__(self) -> str:
        """As it is called in results.json and tables."""
        return f"{'clipped' if self.clipped else 'unclipped'}, {'two' if self.two_sided else 'one'}-sided"


VARIANTS = [Variant(clipped, two_sided) for clipped in (True, False) for two_sided in (False, True)]
MAIN = VARIANTS[0]
"""The authors' own."""


class Scored(NamedTuple):
    """What a detector says of the samples that an attack made.

    Attributes:
        success: [n] bool: right before the attack, and wrong after it inside the ball; of clean samples all.
        predicted: [n] int64, the model's answers.
        y: [n] int64, the truth.
        score: [n] float64.
        corrected: [n] int64, the answers were all of them flagged.
        kept: [n] float64, the part of noisy copies to which the model gives the same answer.
    """

    success: Tensor
    predicted: Tensor
    y: Tensor
    score: Tensor
    corrected: Tensor
    kept: Tensor

    def positives(self) -> Tensor:
        """[successes] float64: the scores that should be above the cutoff."""
        return self.score[self.success]

    def survival(self) -> float:
        """The part of noisy copies of successes that keep their answer; there must be a success."""
        return float(self.kept[self.success].mean())

    def flagged(self, cutoff: float) -> Rate:
        """The positives above the cutoff; there must be at least one."""
        scores = self.positives()
        return Rate(int((scores > cutoff).sum()), len(scores))

    def unseen(self, cutoff: float) -> Rate:
        """Successes that are not flagged, of all samples that were attacked."""
        return Rate(int((self.success & (self.score <= cutoff)).sum()), len(self.score))

    def accuracy(self, cutoff: float | None) -> Rate:
        """Right answers among all samples, corrected where flagged; None: never corrected."""
        answers = self.predicted
        if cutoff is not None:
            answers = torch.where(self.score > cutoff, self.corrected, answers)
        return Rate(int((answers == self.y).sum()), len(self.y))


class Case:
    """The subjects, what is done to them, and the study that keeps what came of it."""

    def __init__(self, settings: Settings, study: Study, subjects: Sequence[Subject]) -> None:
        """A study, nothing of it done yet."""
        self.settings = settings
        self.study = study
        self.subjects = subjects
        self.rows = table_rows(settings)
        self.drawing = Lock()

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
            torch.save(model.state_dict(), path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
            return {}

        cost = 3 * s.epochs * len(trained_on.y) * SECONDS
        return Part(f"{subject.name}: training", "", cost, compute, file=path)

    def untrained(self) -> LeNet5:
        """With random weights, always the same."""
        # The global generator, from which weights are drawn, belongs to all threads.
        with self.drawing, torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return LeNet5()

    def model(self, subject: Subject) -> nn.Module:
        """The subject's model, in eval mode."""
        if subject.make is not None:
            return subject.make()
        model = self.untrained()
        model.load_state_dict(torch.load(self.file("weights", subject.name), weights_only=True))
        return model.eval()

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
            before, after = predict(model, x), predict(model, x_adv)
            fooled = (before == y) & (after != y) & inside
            success = fooled if row.eps > 0 else torch.ones_like(fooled)  # of clean images all count
            return {
                "success": "".join(str(int(flag)) for flag in success),
                "predicted": digits(after),
                **{
                    on_box(clipped): scores(detector, x_adv)
                    | {"kept": kept(detector, x_adv, after, s.kept_draws)}
                    for clipped, detector in detectors.items()
                },
            }

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
        side = result[on_box(variant.clipped)]
        images = subject.held_out if name == HELD_OUT else subject.test
        predicted = numbers(result["predicted"])
        return Scored(
            numbers(result["success"]).bool(),
            predicted,
            images.y[: len(predicted)],
            torch.tensor(
                [float(value) for value in side["two" if variant.two_sided else "one"].split()]
            ).double(),
            numbers(side["corrected"]),
            torch.tensor([int(count) for count in side["kept"].split()]).double() / self.settings.kept_draws,
        )

    def cutoff(self, subject: Subject, variant: Variant, fpr: float) -> float:
        """The cutoff that the held-out images set."""
        return held_out_cutoff(self.scored(subject, HELD_OUT, variant).score, fpr)

    def roc(self, subject: Subject, name: str, variant: Variant) -> Roc:
        """Of the clean test images and an attack's successes; there must be some."""
        clean, attacked = (self.scored(subject, row, variant).positives() for row in (CLEAN, name))
        return roc(clean, attacked)


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """[B] int64 classes."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(BATCH)])


def on_box(clipped: bool) -> str:
    """As noise that is clamped to the box, or not, is called in results.json."""
    return "clipped" if clipped else "unclipped"


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


def scores(detector: OddsAreOdd, x: Tensor) -> dict[str, str]:
    """Scores, one-sided and two-sided, and the answers were all flagged, as text: short in JSON."""
    detector.cutoff = -math.inf
    found: dict[str, list[str]] = {"one": [], "two": []}
    corrected = []
    for part in x.split(BATCH):
        gaps = detector.gaps(part)
        for detector.two_sided, side in ((True, "two"), (False, "one")):
            verdict = detector.judge(gaps)
            found[side] += [f"{score:.5g}" for score in verdict.score.tolist()]
        corrected.append(verdict.label)
    return {
        **{side: " ".join(values) for side, values in found.items()},
        "corrected": digits(torch.cat(corrected)),
    }


def kept(detector: OddsAreOdd, x: Tensor, answers: Tensor, draws: int) -> str:
    """How many of so many noisy copies of each image the model answers like the image itself."""
    ((kind, scale),) = detector.noise
    counts = torch.zeros(len(x), dtype=torch.int64)
    for draw in range(draws):
        # Not the detector's own draws, which begin at 0.
        copies = ops.add_noise(
            x, 1, kind=kind, scale=scale, bounds=detector.bounds, seed=detector.seed, first_draw=2**30 + draw
        )
        counts += predict(detector.model, copies[0]) == answers
    return " ".join(map(str, counts.tolist()))


def digits(labels: Tensor) -> str:
    """[n] int64 in 0 .. 9 as n characters."""
    return "".join(map(str, labels.tolist()))


def numbers(text: str) -> Tensor:
    """The other way round."""
    return torch.tensor([int(character) for character in text])
