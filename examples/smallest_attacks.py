"""The attacks of examples/smallest.py: those of fastadv, adv-lib and Foolbox."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from fastadv import PGD, CarliniWagner, minimal_eps
from fastadv.evaluation.study import OnStep

PEERS = {"adv-lib": ("adv_lib", "tqdm"), "Foolbox": ("foolbox",)}
PGD_STEPS = 40


@dataclass(frozen=True)
class Budget:
    """How long the attacks may search.

    Attributes:
        steps, search_steps: of Carlini and Wagner's descents, and how many of them in l2; linf and l0 have
            rules of their own.
        lr: Adam's step size in tanh space, in l2; half of it is taken in linf.
        walk: steps of attacks that walk along the boundary.
        l2, linf, l0: up to where `minimal_eps` looks, in each norm.
    """

    steps: int
    search_steps: int
    lr: float
    walk: int
    l2: float
    linf: float
    l0: int


@dataclass(frozen=True)
class Attack:
    """One contender.

    Attributes:
        spec: what it is, in words.
        evaluations: about so many per image.
        run: (model, x, y, on_step) -> x_adv.
        foreign: it is another library's.
    """

    spec: str
    evaluations: int
    run: Callable[[nn.Module, Tensor, Tensor, OnStep], Tensor]
    foreign: bool = True


def missing_peers() -> list[str]:
    """The libraries that are not installed."""
    return [name for name, modules in PEERS.items() if not all(map(find_spec, modules))]


def attacks(norm: float, budget: Budget) -> dict[str, Attack]:
    """By name, all contenders in a norm."""
    steps, walk = budget.steps, budget.walk
    descents = budget.search_steps * steps
    contenders = {
        "fastadv: CarliniWagner": carlini_wagner(norm, budget),
        "fastadv: CarliniWagner, published map": carlini_wagner(norm, budget, stretch=0.0),
        f"fastadv: minimal_eps of PGD-{PGD_STEPS}": bisection(norm, budget),
        "adv-lib: FMN": Attack(
            f"fmn, {walk} steps",
            walk,
            lambda model, x, y, _: adv_lib().fmn(model, x, y, norm=norm, steps=walk),
        ),
    }
    if norm == 2:
        contenders["adv-lib: Carlini-Wagner"] = Attack(
            f"carlini_wagner_l2, {budget.search_steps} x {steps}, lr {budget.lr}",
            descents,
            lambda model, x, y, _: adv_lib().carlini_wagner_l2(
                model,
                x,
                y,
                binary_search_steps=budget.search_steps,
                max_iterations=steps,
                learning_rate=budget.lr,
            ),
        )
        contenders["Foolbox: Carlini-Wagner"] = foolbox(
            "L2CarliniWagnerAttack",
            descents,
            binary_search_steps=budget.search_steps,
            steps=steps,
            stepsize=budget.lr,
        )
        contenders["Foolbox: FMN"] = foolbox("L2FMNAttack", walk, steps=walk)
    elif norm == math.inf:
        contenders["adv-lib: Carlini-Wagner"] = Attack(
            f"carlini_wagner_linf, {steps} iterations, lr {budget.lr / 2}",
            20 * steps,
            lambda model, x, y, _: adv_lib().carlini_wagner_linf(
                model, x, y, max_iterations=steps, learning_rate=budget.lr / 2
            ),
        )
        contenders["Foolbox: FMN"] = foolbox("LInfFMNAttack", walk, steps=walk)
    else:
        contenders["adv-lib: sigma-zero"] = Attack(
            f"sigma_zero, {walk} steps",
            walk,
            lambda model, x, y, _: adv_lib().sigma_zero(model, x, y, num_steps=walk),
        )
        contenders["Foolbox: FMN"] = foolbox("L0FMNAttack", walk, steps=walk)
    return contenders


def carlini_wagner(norm: float, budget: Budget, **fields: Any) -> Attack:
    """fastadv's, counting elements in norm 0 as the others do."""
    search_steps = budget.search_steps if norm == 2 else None
    lr = {2.0: budget.lr, math.inf: budget.lr / 2, 0.0: None}[norm]
    attack = CarliniWagner(
        norm=norm, steps=budget.steps, search_steps=search_steps, lr=lr, pixels=False, **fields
    )
    return Attack(
        repr(attack),
        budget.steps * 9,
        lambda model, x, y, on_step: attack(model, x, y, on_step=on_step),
        foreign=False,
    )


def bisection(norm: float, budget: Budget) -> Attack:
    """PGD within the smallest ball in which it succeeds."""
    eps = {2.0: budget.l2, math.inf: budget.linf, 0.0: float(budget.l0)}[norm]
    attack = PGD(norm=norm, eps=eps, steps=PGD_STEPS)
    return Attack(
        repr(attack),
        PGD_STEPS * 9,
        lambda model, x, y, on_step: minimal_eps(attack, model, x, y, on_step=on_step).x_adv,
        foreign=False,
    )


def foolbox(name: str, evaluations: int, **settings: float) -> Attack:
    """One of Foolbox's attacks for the smallest perturbation."""

    def run(model: nn.Module, x: Tensor, y: Tensor, _: OnStep) -> Tensor:
        attack = getattr(import_module("foolbox.attacks"), name)(**settings)
        boxed = import_module("foolbox").PyTorchModel(model, bounds=(0, 1), device=x.device)
        x_adv: Tensor = attack(boxed, x, y, epsilons=None)[1]
        return x_adv

    return Attack(f"{name}, {settings}", evaluations, run)


def adv_lib() -> Any:
    """Its attacks; it imports visdom for curves that are not drawn here."""
    if "visdom" not in sys.modules and find_spec("visdom") is None:
        sys.modules["visdom"] = ModuleType("visdom")
    return import_module("adv_lib.attacks")
