"""Training on samples that are in memory, by one function."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .batches import TensorBatches
from .loss import AdversarialLoss, MakeAdversarial
from .schedules import rise_and_fall
from .trainer import Trainer

OnStep = Callable[[int, int], None]


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
    loader = TensorBatches(x, y, batch_size, generator, ids=False)
    updates = epochs * len(loader)
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )
    trainer = Trainer(
        model,
        AdversarialLoss(attack),
        optimizer,
        schedule=rise_and_fall(optimizer, updates),
        generator=generator,
        own_draws=False,
        quiet=True,
        before_epoch=on_epoch,
        after_update=lambda update: on_step(update, updates),
    )
    trainer.fit(loader, epochs)
