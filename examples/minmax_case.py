"""The nets of examples/minmax.py, how they are trained, and the attacks that they are put to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastadv import PGD, Evolution
from fastadv.defenses import AdversarialLoss, Trainer
from fastadv.defenses.adversarial_training import TensorBatches, madry_pgd, rise_and_fall
from fastadv.evaluation.robustness import Held
from fastadv.evaluation.statistics import Rate
from fastadv.evaluation.study import OnStep, Part, Study
from fastadv.models import mnist_lenet5
from fastadv.models.datasets import CLASSES, Images
from kept_nets import drawn, keep, predict, restore
from minmax_linear import Errors, Training, measure, trainings, zero_against_one

DIGITS, FASHION = "digits", "fashion-mnist"
LENET5 = "LeNet5 of advertorch"
LENET5_EPS = 0.3
CLEAN = "clean"
ROWS = 250
"""So many images go through a net at a time."""


@dataclass(frozen=True)
class Settings:
    """What all results depend on. Distances are linf, in the units of images in [0, 1].

    Attributes:
        linear_eps: of the linear classifiers.
        linear_images: how many zeros and ones they have.
        epochs: of each training, by its eps; 0 is natural training.
        warm_up: the part of a training in which eps grows from 0 to its own.
        inner_steps: of PGD in training.
        train_images, batch_size, learning_rate: how the convnets are trained, by Adam.
        seeds: how often each of them is trained.
        images: how many are attacked for each seed, each of them for one seed only.
        steps, restarts: of the strongest PGD.
        targeted_steps: of PGD towards each class.
        queries: of Evolution, (steps, evaluations in each).
        curve: where robust accuracy is measured besides, by the strongest PGD alone.
    """

    linear_eps: float = 0.2
    linear_images: int = 1000
    epochs: tuple[tuple[float, int], ...] = ((0.0, 10), (0.1, 15), (0.3, 30))
    warm_up: float = 0.4
    inner_steps: int = 7
    train_images: int = 4000
    batch_size: int = 50
    learning_rate: float = 3e-3
    seeds: int = 2
    images: int = 150
    steps: int = 50
    restarts: int = 3
    targeted_steps: int = 25
    queries: tuple[int, int] = (20, 50)
    curve: tuple[float, ...] = (0.05, 0.2, 0.35, 0.4)

    def __post_init__(self) -> None:
        """Raise ValueError where no attack could be transferred from another seed's net."""
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2, got {self.seeds}")

    @property
    def attacked(self) -> list[float]:
        """The eps of all attacks: those of the trainings."""
        return [eps for eps, _ in self.epochs if eps > 0]


QUICK = Settings(
    linear_images=100,
    epochs=((0.0, 4), (0.1, 3), (0.3, 4)),
    inner_steps=2,
    train_images=500,
    images=6,
    steps=3,
    restarts=2,
    targeted_steps=2,
    queries=(2, 4),
    curve=(0.2,),
)
"""Every part of the study on next to nothing, in seconds."""


class Net(NamedTuple):
    """Which net.

    Attributes:
        data: what it classifies.
        eps: of its training, 0 for natural training, None for advertorch's LeNet5, which is as it is.
        seed: of its training; for the LeNet5 only of the images that it is attacked on.
    """

    data: str
    eps: float | None
    seed: int

    def __str__(self) -> str:
        """As it is called in results.json."""
        return f"{self.data}, {self.name}, seed {self.seed}"

    @property
    def name(self) -> str:
        """As its column is called."""
        if self.eps is None:
            return LENET5
        return f"PGD-trained at {self.eps:g}" if self.eps else "natural"

    @property
    def seconds(self) -> float:
        """A forward pass of one image and its gradient take about so long on one core."""
        return 5e-4 if self.eps is None else 8e-5


@dataclass(frozen=True)
class TowardsEachClass:
    """PGD towards every class but the true one, in turn, until the net errs.

    An untargeted ascent follows one direction; here each class has its turn, as in Gowal et al., "An
    alternative surrogate loss for PGD-based adversarial testing" (2019).
    """

    attack: PGD

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, on_step: OnStep) -> Tensor:
        """x_adv; samples on which nothing succeeds, or that are misclassified, come back as they are."""
        found, standing = x.clone(), predict(model, x, ROWS) == y
        for shift in range(1, CLASSES):
            index = standing.nonzero().flatten()
            if len(index) > 0:
                x_adv = self.attack(model, x[index], y[index], target=(y[index] + shift) % CLASSES, ids=index)
                index, x_adv = (rows[predict(model, x_adv, ROWS) != y[index]] for rows in (index, x_adv))
                found[index], standing[index] = x_adv, False
            on_step(shift, CLASSES)
        return found


class Row(NamedTuple):
    """An attack as a line of the table.

    Attributes:
        attack: (model, x, y, on_step=) -> x_adv.
        through: whose gradients it takes: the net's own, or another net's, the "surrogate".
        passes: about so many for each sample, for the time left.
    """

    attack: Callable[..., Tensor]
    through: Literal["own", "surrogate"]
    passes: float


def strongest(s: Settings) -> str:
    """The name of the strongest PGD."""
    return f"PGD-{s.steps}x{s.restarts} (margin)"


def gradient_rows(s: Settings, eps: float) -> dict[str, Row]:
    """The attacks that follow the net's own gradient away from the true class."""
    plain = PGD(eps=eps, steps=s.steps)
    strong = replace(plain, loss="margin", restarts=s.restarts)
    return {
        f"PGD-{s.steps} (cross-entropy)": Row(plain, "own", s.steps),
        strongest(s): Row(strong, "own", s.restarts * s.steps),
    }


def table_rows(s: Settings, eps: float) -> dict[str, Row]:
    """All attacks, by the names they have in the table."""
    towards = TowardsEachClass(PGD(eps=eps, steps=s.targeted_steps, loss="logit_gap"))
    steps, samples = s.queries
    evolution = PGD(
        eps=eps,
        steps=steps,
        loss="margin",
        random_start=False,
        gradient=Evolution(sigma=eps / 2, samples=samples, chunk=samples),
        chunk=10,
    )
    # All steps, since what stops at the surrogate's first error has not left that net's own boundary.
    transferred = PGD(eps=eps, steps=s.steps, loss="margin", early_stop=False)
    return {
        **gradient_rows(s, eps),
        f"PGD-{s.targeted_steps} towards each class": Row(towards, "own", 9 * s.targeted_steps),
        f"Evolution ({samples})": Row(evolution, "own", steps * samples / 3),
        "transfer": Row(transferred, "surrogate", s.steps),
    }


class Case:
    """The nets, what is done to them, and the study that keeps what came of it."""

    def __init__(self, settings: Settings, study: Study, data: Mapping[str, tuple[Images, Images]]) -> None:
        """`data`: by name, (images to train on, images held out)."""
        self.settings = settings
        self.study = study
        self.data = data

    def stages(self) -> dict[str, list[Part]]:
        """All parts, by what is done."""
        return {"linear": self.linear(), "training": self.trainings(), "attacking": self.attacks()}

    def linear(self) -> list[Part]:
        """A part for each training of a linear classifier."""
        return [self.linear_training(training) for training in trainings(self.settings.linear_eps)]

    def linear_training(self, training: Training) -> Part:
        """What `measure` finds, on zeros and ones among all digits."""
        s = self.settings

        def compute(on_step: OnStep) -> dict[str, Any]:
            x, y = zero_against_one(
                Images(*(torch.cat(both) for both in zip(*self.data[DIGITS], strict=True)))
            )
            # Chosen and ordered anew, so that it is no matter which of them were held out.
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: s.linear_images]
            errors = measure(x[order], y[order], training, s.linear_eps)
            counts = {name: getattr(errors, name).count for name in ("clean", "worst", "boxed")}
            return {**counts, "n": len(order), "radius": errors.radius}

        return Part(f"linear: {training.name}", "", s.linear_images / 100, compute)

    def linear_errors(self) -> list[Errors]:
        """What was found for each of them."""
        found = []
        for training in trainings(self.settings.linear_eps):
            result = self.study[f"linear: {training.name}"]
            clean, worst, boxed = (Rate(result[name], result["n"]) for name in ("clean", "worst", "boxed"))
            found.append(Errors(training, clean, worst, boxed, result["radius"]))
        return found

    def nets(self, data: str) -> dict[str, list[Net]]:
        """The nets of a table: one for each seed, by name."""
        s = self.settings
        kinds: list[float | None] = [eps for eps, _ in s.epochs]
        kinds += [None] if data == DIGITS else []
        columns = ([Net(data, eps, seed) for seed in range(s.seeds)] for eps in kinds)
        return {column[0].name: column for column in columns}

    def trained_nets(self) -> list[Net]:
        """All nets that are trained here."""
        return [
            net
            for data in self.data
            for column in self.nets(data).values()
            for net in column
            if net.eps is not None
        ]

    def surrogate(self, net: Net) -> Net:
        """From which attacks on `net` are transferred: the next seed's, for the LeNet5 ours of its eps."""
        if net.eps is None:
            return net._replace(eps=max(self.settings.attacked))
        return net._replace(seed=(net.seed + 1) % self.settings.seeds)

    def trainings(self) -> list[Part]:
        """A part for each net."""
        return [self.training(net) for net in self.trained_nets()]

    def training(self, net: Net) -> Part:
        """Train a net, and see what it makes of the held-out images."""
        s = self.settings
        assert net.eps is not None
        eps, epochs = net.eps, dict(s.epochs)[net.eps]
        trained_on, held_out = self.data[net.data]

        def compute(on_step: OnStep) -> dict[str, Any]:
            model = self.build(net.seed)
            generator = torch.Generator().manual_seed(net.seed)
            loss = AdversarialLoss(None)

            def warm_up(epoch: int) -> None:
                part = min(1.0, (epoch + 1) / (s.warm_up * epochs))
                loss.attack = madry_pgd(part * eps, steps=s.inner_steps, seed=generator) if eps else None

            loader = TensorBatches(*trained_on, s.batch_size, generator)
            optimizer = torch.optim.Adam(model.parameters(), s.learning_rate)
            updates = epochs * len(loader)
            trainer = Trainer(
                model,
                loss,
                optimizer,
                schedule=rise_and_fall(optimizer, updates),
                generator=generator,
                own_draws=False,
                quiet=True,
                before_epoch=warm_up,
                after_update=lambda update: on_step(update, updates),
            )
            trainer.fit(loader, epochs)
            keep(model, self.weights(net))
            predicted = predict(model, held_out.x, ROWS)
            counts = predicted.bincount(minlength=CLASSES).tolist()
            return {"right": int((predicted == held_out.y).sum()), "n": len(predicted), "predicted": counts}

        cost = (1 + (s.inner_steps if eps else 0)) * epochs * s.train_images * net.seconds
        return Part(f"train: {net}", "", cost, compute, file=self.weights(net))

    def build(self, seed: int) -> nn.Module:
        """The net of Wong and Kolter (ICML 2018) for MNIST, with the random weights of this seed."""
        with drawn(seed):
            return nn.Sequential(
                nn.Conv2d(1, 16, 4, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 4, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(32 * 7 * 7, 100),
                nn.ReLU(),
                nn.Linear(100, CLASSES),
            )

    def weights(self, net: Net) -> Path:
        """Where a trained net is kept."""
        return self.study.path.parent / "weights" / f"{net}.pt"

    def load(self, net: Net) -> nn.Module:
        """A trained net, in eval mode."""
        if net.eps is None:
            return mnist_lenet5("adversarial")
        return restore(self.build(net.seed), self.weights(net))

    def attacks(self) -> list[Part]:
        """A part for each net and attack."""
        s = self.settings
        parts = []
        for data in self.data:
            for net in [net for column in self.nets(data).values() for net in column]:
                parts.append(self.attack(net, CLEAN, 0.0, Row(lambda model, x, y, on_step: x, "own", 1)))
                for eps in s.attacked:
                    rows = table_rows(s, eps)
                    parts += [self.attack(net, name, eps, row) for name, row in rows.items()]
                name = strongest(s)
                parts += [self.attack(net, name, eps, gradient_rows(s, eps)[name]) for eps in s.curve]
        return parts

    def attack(self, net: Net, name: str, eps: float, row: Row) -> Part:
        """Attack the images that belong to the net's seed, and see which it still gets right."""
        count = self.settings.images

        def compute(on_step: OnStep) -> dict[str, Any]:
            model = self.load(net)
            held_out = self.data[net.data][1]
            x, y = (values[net.seed * count :][:count] for values in held_out)
            source = self.load(self.surrogate(net)) if row.through == "surrogate" else model
            x_adv = row.attack(source, x, y, on_step=on_step)
            inside = (x_adv - x).abs().flatten(1).amax(1) <= eps
            held = (predict(model, x, ROWS) == y) & ((predict(model, x_adv, ROWS) == y) | ~inside)
            return {"held": "".join(str(int(flag)) for flag in held)}

        what = "the images as they are" if name == CLEAN else f"{row.attack} through {row.through}"
        part = f"{net}: {name}" if name == CLEAN else f"{net}: {name} at {eps:g}"
        return Part(part, f"{what}, {count} images", row.passes * count * net.seconds, compute)

    def held(self, nets: Sequence[Net], name: str, eps: float) -> Tensor:
        """[nets, images] bool: which of its images each net still gets right."""
        at = "" if name == CLEAN else f" at {eps:g}"
        flags = [self.study[f"{net}: {name}{at}"]["held"] for net in nets]
        return torch.tensor([[flag == "1" for flag in row] for row in flags])

    def table(self, data: str, eps: float) -> dict[str, Held]:
        """By net: which images hold out against which attack within eps."""
        names = [CLEAN, *table_rows(self.settings, eps)]
        return {
            name: {attack: self.held(nets, attack, eps) for attack in names}
            for name, nets in self.nets(data).items()
        }

    def curve(self, data: str) -> dict[str, dict[float, Tensor]]:
        """By net and eps: which images hold out against the strongest PGD, at eps 0 as they are."""
        s = self.settings
        return {
            name: {0.0: self.held(nets, CLEAN, 0.0)}
            | {eps: self.held(nets, strongest(s), eps) for eps in sorted({*s.attacked, *s.curve})}
            for name, nets in self.nets(data).items()
        }
