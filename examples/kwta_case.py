"""The nets of examples/kwta.py, how they are trained, and the attacks that they are put to."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastadv import BPDA, EOT, FGSM, KWTA, PGD, Evolution
from fastadv.attacks import transforms
from fastadv.defenses import set_gamma, train
from fastadv.evaluation.robustness import Held
from fastadv.evaluation.study import OnStep, Part, Study
from fastadv.models import CifarResNet
from fastadv.models.datasets import Images
from kept_nets import drawn, keep, predict, restore

Training = Literal["natural", "adversarial"]
TRAININGS: tuple[Training, ...] = ("natural", "adversarial")
RELU, PLAIN, ANNEALED = "ReLU", "k-WTA", "k-WTA annealed"
CLEAN = "clean"
ROWS = 500
"""About so many images go through a net at a time: the activations of more do not fit into a cache."""


@dataclass(frozen=True)
class Settings:
    """What all results depend on. Distances are in the units of images in [0, 1].

    Attributes:
        data: "digits" or "fashion-mnist".
        eps: of the linf ball, in training and in attacks.
        gamma: of k-WTA; annealed nets begin with `start_gamma`.
        train_images, epochs, inner_steps: how nets are trained; inner_steps are those of PGD.
        images: how many are attacked for each seed, each of them for one seed only.
        steps: of PGD and Evolution; the strong attacks take five times as many.
        samples: of Evolution, for each step.
        width, blocks: channels of a net's first stage, and the number of blocks in each stage.
        widths, depths: other values of these two, for natural training only.
        sweep_images, sweep_samples: for these, and for other numbers of samples, fewer images are attacked,
            the first of those of seed 0.
    """

    data: str = "digits"
    eps: float = 0.1
    seeds: int = 3
    gamma: float = 0.1
    start_gamma: float = 0.2
    train_images: int = 4000
    epochs: int = 5
    inner_steps: int = 5
    images: int = 120
    steps: int = 20
    samples: int = 100
    width: int = 8
    blocks: tuple[int, ...] = (1, 1, 1)
    widths: tuple[int, ...] = (4, 12)
    depths: tuple[tuple[int, ...], ...] = ((1, 1), (2, 2, 2))
    sweep_images: int = 50
    sweep_samples: tuple[int, ...] = (10, 1000)

    def __post_init__(self) -> None:
        """Raise ValueError where a sweep would take images that belong to another seed."""
        if self.images < self.sweep_images:
            raise ValueError(f"images must be at least {self.sweep_images}, got {self.images}")


QUICK = Settings(
    seeds=2,
    train_images=600,
    epochs=4,
    inner_steps=1,
    images=6,
    steps=2,
    samples=4,
    width=4,
    blocks=(1, 1),
    widths=(2,),
    depths=((1,),),
    sweep_images=2,
    sweep_samples=(2,),
)
"""Every part of the study on next to nothing, in seconds."""


class Net(NamedTuple):
    """Which net: how it is built, how trained, and with which seed."""

    activation: str
    training: Training
    width: int
    blocks: tuple[int, ...]
    seed: int

    def __str__(self) -> str:
        """As it is called in results.json."""
        return f"{self.size()}, seed {self.seed}"

    def size(self) -> str:
        """The same without the seed."""
        blocks = "-".join(map(str, self.blocks))
        return f"{self.activation}, {self.training}, width {self.width}, blocks {blocks}"

    def seconds(self) -> float:
        """A forward pass of one image takes about so long on one core."""
        return 5e-5 * (1 + sum(self.blocks)) * math.pow(self.width / 8, 0.7)


class Row(NamedTuple):
    """An attack as a line of the table.

    Attributes:
        attack: (model, x, y, on_step=) -> x_adv.
        through: whose gradients it takes: the net's own; the net's with another backward pass of its
            activations, the "identity" or that of a "relu"; or those of another net, the "surrogate".
        evaluations: about so many forward passes for each sample, for the time left.
        swept: whether nets of other widths and depths are put to it.
    """

    attack: Callable[..., Tensor]
    through: Literal["own", "identity", "relu", "surrogate"]
    evaluations: float
    swept: bool = False


def table_rows(s: Settings) -> dict[str, Row]:
    """The attacks, by the names they have in the table."""
    pgd = partial(PGD, eps=s.eps, chunk=ROWS)
    strong = pgd(steps=5 * s.steps, loss="margin", restarts=3)
    noise = EOT(transforms.Noise(s.eps / 2), draws=10)
    over_noise = pgd(steps=2 * s.steps, loss="margin", gradient=noise, restarts=2, chunk=ROWS // 10)
    return {
        CLEAN: Row(FGSM(eps=0.0), "own", 3, swept=True),
        "FGSM": Row(FGSM(eps=s.eps), "own", 3),
        f"PGD-{s.steps}": Row(pgd(steps=s.steps), "own", 3 * s.steps, swept=True),
        f"PGD-{5 * s.steps}x3 (margin)": Row(strong, "own", 45 * s.steps, swept=True),
        # As many steps and starts as PGD has: what a weaker attack does not find proves nothing.
        "BPDA (identity)": Row(strong, "identity", 45 * s.steps),
        "BPDA (ReLU)": Row(strong, "relu", 45 * s.steps),
        "EOT (noise)": Row(over_noise, "own", 120 * s.steps),
        evolution_name(s.samples): evolution_row(s, s.samples),
        "transfer (ReLU)": Row(pgd(steps=s.steps, early_stop=False), "surrogate", 3 * s.steps),
    }


def evolution_name(samples: int) -> str:
    """Evolution's name in the table."""
    return f"Evolution ({samples})"


def evolution_row(s: Settings, samples: int) -> Row:
    """PGD with gradients estimated from evaluations; loss and start are those of the published attack."""
    attack = PGD(
        eps=s.eps,
        steps=s.steps,
        loss="margin",
        random_start=False,
        gradient=Evolution(sigma=s.eps / 2, samples=samples, chunk=50),
        chunk=ROWS // 50,
    )
    return Row(attack, "own", samples * s.steps, swept=True)


class Case:
    """The nets, what is done to them, and the study that keeps what came of it."""

    def __init__(self, settings: Settings, study: Study, trained_on: Images, held_out: Images) -> None:
        """Images to train on, and others to attack."""
        self.settings = settings
        self.study = study
        self.trained_on = trained_on
        self.held_out = held_out

    def nets(self, training: Training) -> dict[str, list[Net]]:
        """The nets of a table: one for each seed, by activation."""
        s = self.settings
        return {
            activation: [Net(activation, training, s.width, s.blocks, seed) for seed in range(s.seeds)]
            for activation in (RELU, PLAIN, ANNEALED)
        }

    def sampled_nets(self) -> list[Net]:
        """Nets of the tables, of seed 0, that Evolution attacks with other numbers of samples as well."""
        return [self.nets(training)[name][0] for training in TRAININGS for name in (RELU, PLAIN)]

    def swept_nets(self) -> list[Net]:
        """Naturally trained nets of other widths and depths than the table's, of seed 0."""
        s = self.settings
        shapes = [(width, s.blocks) for width in s.widths] + [(s.width, blocks) for blocks in s.depths]
        return [
            Net(activation, "natural", width, blocks, 0)
            for width, blocks in shapes
            for activation in (RELU, PLAIN)
        ]

    def plan(self) -> list[tuple[Net, str, Row, int]]:
        """Every net, attack, and number of images: the tables, other sizes, other numbers of samples."""
        s = self.settings
        rows = table_rows(s)
        plan = []
        for training in TRAININGS:
            nets = self.nets(training)
            for net in chain(*nets.values()):
                plan += [(net, name, row, s.images) for name, row in rows.items()]
        for net in self.sampled_nets():
            for samples in s.sweep_samples:
                plan.append((net, evolution_name(samples), evolution_row(s, samples), s.sweep_images))
        for net in self.swept_nets():
            plan += [(net, name, row, s.sweep_images) for name, row in rows.items() if row.swept]
        return plan

    def surrogate(self, net: Net) -> Net:
        """The ReLU net of another seed, trained alike, from which attacks on `net` are transferred."""
        return net._replace(activation=RELU, seed=(net.seed + 1) % max(2, self.settings.seeds))

    def trainings(self) -> list[Part]:
        """A part for each net of the plan."""
        nets = [net for net, _, row, _ in self.plan()]
        nets += [self.surrogate(net) for net, _, row, _ in self.plan() if row.through == "surrogate"]
        return [self.training(net) for net in dict.fromkeys(nets)]

    def training(self, net: Net) -> Part:
        """Train a net, and count the held-out images that it gets right."""
        s = self.settings

        def compute(on_step: OnStep) -> dict[str, Any]:
            model = self.build(net)
            generator = torch.Generator().manual_seed(net.seed)
            attack = PGD(eps=s.eps, steps=s.inner_steps, early_stop=False, seed=generator)
            train(
                model,
                *self.trained_on,
                epochs=s.epochs,
                attack=attack if net.training == "adversarial" else None,
                seed=net.seed,
                on_epoch=partial(self.anneal, model) if net.activation == ANNEALED else lambda epoch: None,
                on_step=on_step,
            )
            keep(model, self.weights(net))
            right = predict(model, self.held_out.x, ROWS) == self.held_out.y
            return {"right": int(right.sum()), "n": len(right)}

        passes = 4 + (3 * s.inner_steps if net.training == "adversarial" else 0)
        cost = passes * s.epochs * s.train_images * net.seconds()
        return Part(f"train: {net}", "", cost, compute, file=self.weights(net))

    def build(self, net: Net) -> CifarResNet:
        """The net with random weights: for one seed the same, whatever the activation."""
        gamma = self.settings.start_gamma if net.activation == ANNEALED else self.settings.gamma
        activation = nn.ReLU if net.activation == RELU else partial(KWTA, gamma)
        with drawn(net.seed):
            return CifarResNet(net.blocks, net.width, in_channels=1, activation=activation)

    def anneal(self, model: nn.Module, epoch: int) -> None:
        """gamma keeps its start for half of the epochs, then falls, and has its end for the last quarter."""
        s = self.settings
        fall = min(1.0, max(0.0, (epoch / s.epochs - 0.5) / 0.25))
        set_gamma(model, s.start_gamma + fall * (s.gamma - s.start_gamma))

    def weights(self, net: Net) -> Path:
        """Where a trained net is kept."""
        return self.study.path.parent / "weights" / f"{net}.pt"

    def load(self, net: Net) -> nn.Module:
        """A trained net, in eval mode."""
        return restore(self.build(net), self.weights(net))

    def attacks(self) -> list[Part]:
        """A part for each line of the plan."""
        return [self.attack(*line) for line in self.plan()]

    def attack(self, net: Net, name: str, row: Row, images: int) -> Part:
        """Attack the first of the images that belong to the net's seed, and see which it still gets right."""

        def compute(on_step: OnStep) -> dict[str, Any]:
            model = self.load(net)
            first = net.seed * self.settings.images
            x, y = (values[first : first + images] for values in self.held_out)
            source = self.load(self.surrogate(net)) if row.through == "surrogate" else disguised(model, row)
            x_adv = row.attack(source, x, y, on_step=on_step)
            inside = (x_adv - x).abs().flatten(1).amax(1) <= self.settings.eps
            held = (predict(model, x, ROWS) == y) & ((predict(model, x_adv, ROWS) == y) | ~inside)
            return {"held": "".join(str(int(flag)) for flag in held)}

        spec = f"{row.attack} through {row.through}, {images} images"
        return Part(f"{net}: {name}", spec, row.evaluations * images * net.seconds(), compute)

    def held(self, nets: Sequence[Net], name: str, images: int) -> Tensor:
        """[nets, images] bool: which of its first images each net still gets right."""
        flags = [self.study[f"{net}: {name}"]["held"][:images] for net in nets]
        return torch.tensor([[flag == "1" for flag in row] for row in flags])

    def table(self, training: Training) -> dict[str, Held]:
        """By activation: which images hold out against which attack."""
        s = self.settings
        return {
            activation: {name: self.held(nets, name, s.images) for name in table_rows(s)}
            for activation, nets in self.nets(training).items()
        }

    def by_size(self) -> dict[Net, Held]:
        """What holds out on nets of all sizes, by net."""
        s = self.settings
        swept = [name for name, row in table_rows(s).items() if row.swept]
        nets = [net for net in self.sampled_nets() if net.training == "natural"] + self.swept_nets()
        nets.sort(key=lambda net: (sum(net.blocks), net.width))
        return {net: {name: self.held([net], name, s.sweep_images) for name in swept} for net in nets}

    def by_samples(self) -> dict[Net, dict[int, Tensor]]:
        """What holds out against Evolution, by net and number of samples."""
        s = self.settings
        numbers = sorted({*s.sweep_samples, s.samples})
        return {
            net: {n: self.held([net], evolution_name(n), s.sweep_images) for n in numbers}
            for net in self.sampled_nets()
        }


def disguised(model: nn.Module, row: Row) -> nn.Module:
    """The net with the backward pass that the attack wants; forward it is the same to the bit."""
    if row.through == "own":
        return model
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU | KWTA) and name != "stem.relu":
            model.set_submodule(name, BPDA(module, nn.ReLU() if row.through == "relu" else None))
    return model
