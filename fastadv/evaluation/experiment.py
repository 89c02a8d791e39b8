"""Attacks image files batch by batch: the adversarial PNGs, what the model says about them, the figures."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

import torch
from torch import Tensor, nn

from fastadv.attacks import PGD
from fastadv.models import ModelError, class_name
from fastadv.models.images import LEVELS, ImageError, levels, load_image, quantize, save_png
from fastadv.models.text import FAILURES, UNPRINTABLE, brief

from .figure import Row, save_figure
from .results import Outcome, Prediction, Record

NAME_BYTES = 100
"""How much of an image's name its files keep: with their endings they fit every file system."""


@dataclass(frozen=True)
class Subject:
    """An image file, and its true label where that is known."""

    path: Path
    label: int | None = None


@dataclass(frozen=True)
class Goal:
    """An attack and what it is after: the class `target`, or with None any class but the image's own."""

    attack: PGD
    target: int | None = None

    @property
    def kind(self) -> str:
        """ "targeted" or "untargeted"."""
        return "untargeted" if self.target is None else "targeted"

    def heading(self, class_names: Sequence[str], own: int | None = None) -> str:
        """The goal in words; `own` is the class of the image, where one is meant."""
        if self.target is not None:
            return f"targeted: {class_name(self.target, class_names)}"
        return "untargeted" if own is None else f"untargeted: anything but {class_name(own, class_names)}"

    def reached(self, label: int, own: int) -> bool:
        """Whether a prediction of `label` for an image of class `own` is what was asked for."""
        return label != own if self.target is None else label == self.target


@dataclass(frozen=True)
class _Image:
    number: int
    subject: Subject
    name: str
    pixels: Tensor


@dataclass
class Steps:
    """Turns an attack's steps into images done: all of them together make `images`."""

    on_progress: Callable[[float], None]
    images: float
    done: int = 0

    def __call__(self, step: int, steps: int) -> None:
        """So many steps are done."""
        self.on_progress((step - self.done) / steps * self.images)
        self.done = step


@dataclass(frozen=True)
class Experiment:
    """A model and the attacks on it.

    Args:
        model: images [B, C, H, W] in [0, 1] on `device` -> logits [B, K]; in eval mode.
        shape: (C, H, W) that images are cropped and resized to.
        class_names: K names, or none.
        goals: the attacks, one line each in the figures.
        eps, norm: the ball of those attacks.
        radius: the same in words, for the figures.
        out: an existing folder.
    """

    model: nn.Module
    shape: tuple[int, int, int]
    class_names: Sequence[str]
    goals: Sequence[Goal]
    eps: float
    norm: float
    radius: str
    out: Path
    device: torch.device
    batch_size: int

    def run(
        self,
        subjects: Sequence[Subject],
        *,
        on_progress: Callable[[float], None],
        on_skip: Callable[[str], None],
    ) -> Iterator[Record]:
        """Attack the images; yield each one's record when its files are written.

        Without a true label, an image's own class is what the model predicts for it. Random numbers go by an
        image's place among the subjects, not in its batch.

        Args:
            subjects: the images.
            on_progress: called with the number of images done since the last call, in fractions.
            on_skip: called with the reason for each file that cannot be read; such a file is left out.

        Raises:
            ModelError: the model fails, or cannot be attacked, for instance because no gradient reaches
                the image; the message is one line.
            OSError: a file cannot be written.
        """
        names: set[str] = set()

        def readable() -> Iterator[_Image]:
            for number, subject in enumerate(subjects):
                channels, height, width = self.shape
                try:
                    pixels = load_image(subject.path, (height, width), channels=channels)
                except ImageError as error:
                    on_skip(str(error))
                    on_progress(1)
                else:
                    name = output_name(subject.path, names)
                    names.add(name)
                    yield _Image(number, subject, name, pixels)

        images = readable()
        while batch := list(islice(images, self.batch_size)):
            yield from self._run_batch(batch, on_progress)

    def _run_batch(self, batch: Sequence[_Image], on_progress: Callable[[float], None]) -> Iterator[Record]:
        x = torch.stack([image.pixels for image in batch]).to(self.device)
        ids = torch.tensor([image.number for image in batch], device=self.device)
        before = self._predict(x)
        labels = [image.subject.label for image in batch]
        own = [b.label if label is None else label for label, b in zip(labels, before, strict=True)]
        y = torch.tensor(own, device=self.device)
        outcomes: list[dict[str, Outcome]] = [{} for _ in batch]
        rows: list[list[Row]] = [[] for _ in batch]
        for goal in self.goals:
            on_step = Steps(on_progress, len(batch) / len(self.goals))
            try:
                x_adv = goal.attack(self.model, x, y, target=goal.target, ids=ids, on_step=on_step)
            except FAILURES as error:  # most of what runs there is the user's model
                raise ModelError(f"the {goal.kind} attack fails: {brief(error)}") from error
            files = [f"{image.name}_{goal.kind}.png" for image in batch]
            for i, outcome in enumerate(self._judge(goal, own, x, x_adv, files)):
                outcomes[i][goal.kind] = outcome
                rows[i].append(
                    Row(
                        heading=goal.heading(self.class_names, own[i]),
                        original=x[i],
                        result=x_adv[i],
                        before=(before[i].name, before[i].confidence),
                        after=(outcome.prediction.name, outcome.prediction.confidence),
                        fooled=outcome.success,
                    )
                )
        for i, image in enumerate(batch):
            figure = f"{image.name}_figure.png"
            save_figure(rows[i], self.radius, self.out / figure)
            label = image.subject.label
            truth = None if label is None else class_name(label, self.class_names)
            yield Record(str(image.subject.path), truth, before[i], outcomes[i], figure)

    def _judge(
        self, goal: Goal, own: Sequence[int], x: Tensor, x_adv: Tensor, files: Sequence[str]
    ) -> Iterator[Outcome]:
        """Save each result as an 8-bit PNG, and ask the model about the result and about that file."""
        for q, file in zip(quantize(x_adv, x, eps=self.eps, norm=self.norm), files, strict=True):
            save_png(q, self.out / file)
        saved = torch.stack([load_image(self.out / file, channels=self.shape[0]) for file in files]).to(
            self.device
        )
        after, file_after = self._predict(x_adv), self._predict(saved)
        for i, file in enumerate(files):
            linf, l2 = _lengths(x_adv[i].double() - x[i].double())
            file_linf, file_l2 = _lengths((levels(saved[i]) - levels(x[i])) / LEVELS)
            yield Outcome(
                prediction=after[i],
                success=goal.reached(after[i].label, own[i]),
                linf=linf,
                l2=l2,
                file=file,
                file_prediction=file_after[i],
                file_linf=file_linf,
                file_l2=file_l2,
                survived=goal.reached(file_after[i].label, own[i]),
            )

    def _predict(self, x: Tensor) -> list[Prediction]:
        confidence, label = ask(self.model, x).double().softmax(1).max(1)
        return [
            Prediction(k, class_name(k, self.class_names), p)
            for k, p in zip(label.tolist(), confidence.tolist(), strict=True)
        ]


def count_classes(model: nn.Module, shape: tuple[int, int, int], device: torch.device) -> int:
    """K, found by showing the model one grey image before any work starts.

    Raises:
        ModelError: as `ask`.
    """
    return ask(model, torch.full((1, *shape), 0.5, device=device)).shape[1]


def ask(model: nn.Module, x: Tensor) -> Tensor:
    """The model's logits [B, K] for images [B, C, H, W], without gradients; x itself stays as it is.

    Raises:
        ModelError: the model fails on them, or does not return finite logits [B, K] with K >= 2.
    """
    try:
        with torch.no_grad():
            # A copy, for a model may work in place.
            logits = model(x.clone())
    except FAILURES as error:
        raise ModelError(f"the model fails on images of shape {list(x.shape)}: {brief(error)}") from error
    expected = f"expected finite logits [{len(x)}, K] with K >= 2"
    if not isinstance(logits, Tensor):
        raise ModelError(f"the model returned a {type(logits).__name__}, {expected}")
    if logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise ModelError(f"the model returned {list(logits.shape)}, {expected}")
    if not bool(logits.isfinite().all()):
        raise ModelError(f"the model returned NaN or infinity, {expected}")
    return logits


def output_name(path: Path, taken: Container[str]) -> str:
    """What the files made from an image are called: its own name without the ending.

    Characters that cannot be shown become _, long names are cut, and one in `taken` gets a number.
    """
    whole = UNPRINTABLE.sub("_", path.stem)
    stem = whole.encode()[:NAME_BYTES].decode(errors="ignore")
    candidates = chain([stem], (f"{stem}-{number}" for number in count(2)))
    return next(name for name in candidates if name not in taken)


def _lengths(delta: Tensor) -> tuple[float, float]:
    """linf and l2."""
    return delta.abs().max().item(), delta.norm().item()
