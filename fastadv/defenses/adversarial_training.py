"""Training, as usual or on adversarial samples: the survey's section 4."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OnStep = Callable[[int, int], None]
MakeAdversarial = Callable[[nn.Module, Tensor, Tensor], Tensor]

WARM_UP = 0.1
"""The part of the training in which the learning rate rises."""


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    attack: MakeAdversarial | None = None,
    batch_size: int = 50,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    seed: int = 0,
    on_epoch: Callable[[int], object] = lambda epoch: None,
    on_step: OnStep = lambda step, steps: None,
) -> None:
    """Train a classifier with the cross-entropy, on samples as they are or as an attack makes them.

    Adversarial training is min over weights of the mean of max over ||delta|| <= eps of the loss: Madry et
    al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018), eq. (2.1). The attack
    meets the model in eval mode, the update is made in train mode. By stochastic gradient descent with
    Nesterov momentum 0.9 and a learning rate that rises linearly and then falls linearly to 0, so that the
    last batches do not decide what the model is like.

    Args:
        model: [B, ...] -> logits [B, K]; changed in place, and in eval mode afterwards.
        x: [N, ...] samples.
        y: [N] int64 classes.
        epochs: passes over the samples, at least 1.
        attack: (model, x, y) -> x_adv, such as `PGD(eps=0.1, steps=7, early_stop=False, seed=generator)`; a
            generator as its seed gives each batch random numbers of its own. None trains on x.
        batch_size: samples per update; the last batch of an epoch may be smaller.
        learning_rate: its largest value.
        weight_decay: of all parameters.
        seed: of the batches; the global generator is not used.
        on_epoch: called with 0 .. epochs - 1 before each epoch, to change what should change, as with
            `set_gamma`.
        on_step: called with (updates done, all updates).

    Raises:
        ValueError: a number is out of range, or x and y are not of one length.
    """
    if min(epochs, batch_size) < 1 or learning_rate <= 0:
        raise ValueError(
            f"train: epochs and batch_size must be at least 1 and learning_rate positive, "
            f"got {epochs}, {batch_size} and {learning_rate}"
        )
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"train: x and y must be of one length, at least 1, got {len(x)} and {len(y)}")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )
    steps = epochs * math.ceil(len(x) / batch_size)
    step = 0
    model.train()
    for epoch in range(epochs):
        on_epoch(epoch)
        for batch in torch.randperm(len(x), generator=generator).to(x.device).split(batch_size):
            seen = x[batch] if attack is None else attack(model, x[batch], y[batch])
            done = (step + 0.5) / steps
            optimizer.param_groups[0]["lr"] = learning_rate * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
            optimizer.zero_grad()
            F.cross_entropy(model(seen), y[batch]).backward()
            optimizer.step()
            step += 1
            on_step(step, steps)
    optimizer.zero_grad()
    model.eval()
