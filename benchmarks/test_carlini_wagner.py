"""CarliniWagner as a whole, against adv-lib and Foolbox with the same settings, 200 iterations in all."""

import math
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from benchmarks.inputs import tiny_cnn
from benchmarks.race import Enter, Notes, Race
from benchmarks.test_pgd import skip_without
from fastadv import CarliniWagner

SEARCH_STEPS, STEPS, C_INIT, LR = 4, 50, 0.1, 0.01


def adv_lib(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The same attack by adv-lib 0.2.8, which imports visdom for curves that are not drawn here."""
    if "visdom" not in sys.modules and find_spec("visdom") is None:
        sys.modules["visdom"] = ModuleType("visdom")
    from adv_lib.attacks.carlini_wagner import carlini_wagner_l2  # not everywhere; see skip_without

    return carlini_wagner_l2(
        model,
        x,
        y,
        learning_rate=LR,
        initial_const=C_INIT,
        binary_search_steps=SEARCH_STEPS,
        max_iterations=STEPS,
    )


def foolbox(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The same attack by Foolbox 3.3.4."""
    from foolbox import PyTorchModel
    from foolbox.attacks import L2CarliniWagnerAttack

    attack = L2CarliniWagnerAttack(
        binary_search_steps=SEARCH_STEPS, steps=STEPS, stepsize=LR, initial_const=C_INIT
    )
    return attack(PyTorchModel(model, bounds=(0, 1), device=x.device), x, y, epsilons=None)[1]


PEERS = {"adv-lib": (adv_lib, ("adv_lib", "tqdm")), "Foolbox": (foolbox, ("foolbox",))}


@pytest.mark.parametrize("contender", ["fastadv", *PEERS])
def test_carlini_wagner_on_a_tiny_cnn(contender: str, device: str, enter: Enter) -> None:
    if contender in PEERS:
        skip_without(*PEERS[contender][1])

    def make() -> Race:
        model = tiny_cnn().to(device)
        x = torch.rand(128, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
        y = model(x).argmax(1)
        attack = CarliniWagner(search_steps=SEARCH_STEPS, steps=STEPS, c_init=C_INIT, lr=LR)
        contenders = {"fastadv": lambda: attack(model, x, y)}
        for name, (peer, packages) in PEERS.items():
            if all(map(find_spec, packages)):
                contenders[name] = lambda peer=peer: peer(model, x, y)

        def check(results: dict[str, Tensor]) -> Notes:
            """No median of distances is smaller; a sample that is not broken is infinitely far."""
            medians = {}
            for name, x_adv in results.items():
                distance = (x_adv - x).flatten(1).norm(dim=1)
                medians[name] = distance.where(model(x_adv).argmax(1) != y, math.inf).median().item()
            assert medians["fastadv"] <= min(medians.values()) * (1 + 1e-4), medians
            return {name: {"median_distance": median} for name, median in medians.items()}

        return Race(contenders, check)

    enter("C&W l2 200 iterations tiny CNN", contender, make)
