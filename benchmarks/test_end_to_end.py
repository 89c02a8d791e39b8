"""PGD-40 on ResNets, on a GPU: fastadv, torchattacks, Foolbox, a loop written by hand, the model alone.

Their weights are random, which costs the same time. What is not "model only" is the attack's own.
"""

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.inputs import NORMS
from benchmarks.race import Call, Enter, Notes, Race
from benchmarks.test_pgd import STEPS, mean_losses, model_only, pgd_by_hand, skip_without, torchattacks_pgd
from fastadv import PGD
from fastadv.models import cifar_resnet18

Make = Callable[[], nn.Module]
CONTENDERS = ("fastadv", "torchattacks", "Foolbox", "by hand", "model only")
EPS = {"inf": 8 / 255, "2": 0.5}


def imagenet_resnet50() -> nn.Module:
    return pytest.importorskip("torchvision").models.resnet50()


CASES: dict[str, tuple[Make, tuple[int, ...]]] = {
    "ResNet-18 batch 32": (cifar_resnet18, (32, 3, 32, 32)),
    "ResNet-18 batch 512": (cifar_resnet18, (512, 3, 32, 32)),
    "ResNet-50 batch 64": (imagenet_resnet50, (64, 3, 224, 224)),
}


def foolbox_call(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, step_size: float) -> Tensor:
    """The same attack by Foolbox 3.3.4."""
    from foolbox import PyTorchModel, attacks, criteria  # not everywhere

    attack = attacks.LinfPGD if norm == "inf" else attacks.L2PGD
    wrapped = PyTorchModel(model, bounds=(0, 1), device=x.device)
    settings = {"abs_stepsize": step_size, "steps": STEPS, "random_start": False}
    return attack(rel_stepsize=None, **settings).run(wrapped, x, criteria.Misclassification(y), epsilon=eps)


def by_hand_call(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, step_size: float) -> Tensor:
    """What one would write, no more."""
    if norm == "inf":
        return pgd_by_hand(model, x, y, eps=eps, step_size=step_size)
    x_adv = x
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        length = grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp_(min=1e-12)
        delta = (x_adv.detach() + step_size * grad / length - x).renorm(2, 0, eps)
        x_adv = (x + delta).clamp_(0, 1)
    return x_adv


def race(model: nn.Module, shape: tuple[int, ...], norm: str, device: str) -> Race:
    """All that are installed, in one norm, on random images."""
    model = model.to(device).eval()
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        y = model(x).argmax(1)
    eps, step_size = EPS[norm], EPS[norm] / 4
    attack = PGD(
        eps=eps, step_size=step_size, norm=NORMS[norm], steps=STEPS, random_start=False, early_stop=False
    )
    calls: dict[str, Call] = {
        "fastadv": lambda: attack(model, x, y),
        "by hand": lambda: by_hand_call(model, x, y, norm, eps, step_size),
        "model only": lambda: model_only(model, x, y),
    }
    budget = {"eps": eps, "step_size": step_size}
    if find_spec("torchattacks"):
        calls["torchattacks"] = lambda: torchattacks_pgd(model, x, y, **budget, norm=norm)
    if find_spec("foolbox"):
        calls["Foolbox"] = lambda: foolbox_call(model, x, y, norm, **budget)

    def check(results: dict[str, Tensor]) -> Notes:
        """No mean loss is a hundredth higher: on a GPU convolutions differ from run to run."""
        return mean_losses(model, y, results, share=0.99)

    return Race(calls, check)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_gpu = metafunc.config.getoption("--device") == "cuda"
    metafunc.parametrize("case", list(CASES) if on_gpu else [])


@pytest.mark.parametrize("contender", CONTENDERS)
def test_pgd(contender: str, norm: str, case: str, device: str, enter: Enter) -> None:
    if contender in ("torchattacks", "Foolbox"):
        skip_without(contender.lower())

    def make() -> Race:
        torch.manual_seed(0)
        net, shape = CASES[case]
        return race(net(), shape, norm, device)

    enter(f"PGD-40 l{norm} {case}", contender, make)
