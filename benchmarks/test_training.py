"""An epoch of training on what PGD-7 makes of digits: fastadv, torchattacks, and the model alone.

The model's eight passes forward and backward are the same for everyone, and on a CPU nearly all of the time:
"model only" shows them. What an attack can save is what torchattacks spends beside them.
"""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.inputs import digits
from benchmarks.race import Enter, Notes, Race
from benchmarks.test_pgd import skip_without
from fastadv import PGD
from fastadv.defenses import AdversarialLoss
from fastadv.defenses.adversarial_training import TensorBatches, madry_pgd
from fastadv.evaluation.statistics import Rate

EPS, STEPS = 0.1, 7
BATCH, EPOCHS = 128, 6
STEP_SIZE = 2.5 * EPS / STEPS
MakeLoss = Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]]


def fastadv_loss(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    attack = madry_pgd(EPS, steps=STEPS, seed=torch.Generator().manual_seed(0))
    return partial(AdversarialLoss(attack), model)


def torchattacks_loss(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The same by torchattacks 3.5.1."""
    import torchattacks  # not everywhere; see skip_without

    attack = torchattacks.PGD(model, eps=EPS, alpha=STEP_SIZE, steps=STEPS)
    return lambda x, y: F.cross_entropy(model(attack(x, y)), y)


def model_only_loss(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """As many passes of the model, on noise: the zeros of clean digits are faster than what attacks give."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        seen = (x + EPS * torch.empty_like(x).uniform_(-1, 1)).clamp(0, 1)
        for _ in range(STEPS):
            seen = seen.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(seen), y), seen)
        return F.cross_entropy(model(seen.detach()), y)

    return loss


class Training:
    """Called, a net is trained for one more epoch."""

    def __init__(self, model: nn.Module, make_loss: MakeLoss, x: Tensor, y: Tensor) -> None:
        self.model = model
        self.loss = make_loss(model)
        self.optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        self.batches = TensorBatches(x, y, BATCH, torch.Generator().manual_seed(0), ids=False)

    def __call__(self) -> nn.Module:
        self.model.train()
        for x, y in self.batches:
            self.optimizer.zero_grad()
            self.loss(x, y).backward()
            self.optimizer.step()
        return self.model


def small_net_on_digits() -> tuple[nn.Module, Tensor, Tensor]:
    """Two convolutions of stride 2, on digits as nets for CIFAR-10 take them: [B, 3, 32, 32]."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    x, y = digits(per_class=280)
    return net, F.pad(x, (2, 2, 2, 2)).repeat(1, 3, 1, 1), y


@pytest.mark.parametrize("contender", ["fastadv", "torchattacks", "model only"])
def test_an_epoch_of_pgd_training(contender: str, device: str, enter: Enter) -> None:
    skip_without("torchattacks", "mlxtend")

    def make() -> Race:
        losses = {
            "fastadv": fastadv_loss,
            "torchattacks": torchattacks_loss,
            "model only": model_only_loss,
        }
        # From a net that knows the digits: random weights may long find nothing to learn in what PGD gives.
        model, x, y = (part.to(device) for part in small_net_on_digits())
        kept = torch.arange(len(x), device=device) % 7 > 1  # five of seven are trained on
        natural = Training(model, lambda model: lambda x, y: F.cross_entropy(model(x), y), x[kept], y[kept])
        for _ in range(5):
            natural()
        trainings = {
            who: Training(copy.deepcopy(model), make_loss, x[kept], y[kept])
            for who, make_loss in losses.items()
        }
        held_out = x[~kept], y[~kept]

        def check(models: dict[str, nn.Module]) -> Notes:
            """The same defence: robust accuracies, after more epochs, whose 95% intervals overlap."""
            rates = {}
            for who in ("fastadv", "torchattacks"):
                for _ in range(EPOCHS - 1):
                    trainings[who]()
                broken = PGD(eps=EPS, steps=20, loss="margin").run(models[who], *held_out).success
                rates[who] = Rate(int((~broken).sum()), len(broken))
            (low, high), (other_low, other_high) = (rate.interval() for rate in rates.values())
            assert max(low, other_low) <= min(high, other_high), rates
            assert min(rate.value for rate in rates.values()) > 0.5, "little was learned"
            return {who: {"robust_accuracy": rate.value} for who, rate in rates.items()}

        return Race(dict(trainings), check)

    enter("PGD-7 training small net", contender, make)
