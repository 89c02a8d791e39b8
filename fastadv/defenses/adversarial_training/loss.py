"""The loss in the worst case, for a training loop of one's own."""

import contextlib
import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from fastadv._checks import is_real
from fastadv.attacks.attack import refuse_class

MakeAdversarial = Callable[..., Tensor]
"""(model, x, y) -> x_adv, such as an attack; `ids=` as well where it takes them and a batch has them."""
MeanLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, K] float, y [B]) -> the mean of the losses."""


def takes_ids(attack: MakeAdversarial | None) -> bool:
    """Whether an attack can be told the samples' ids: whether its signature, if it has one, says so."""
    try:
        parameters = inspect.signature(attack).parameters.values() if attack is not None else ()
    except ValueError:
        return False
    return any(each.name == "ids" or each.kind == each.VAR_KEYWORD for each in parameters)


def attacked(
    name: str, attack: MakeAdversarial, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor | None
) -> Tensor:
    """What an attack makes of a batch, told the samples' ids where there are some and it takes them.

    Raises TypeError and ValueError, `name` first, where that is no batch like x.
    """
    x_adv: object = attack(model, x, y, **({"ids": ids} if ids is not None and takes_ids(attack) else {}))
    wanted = (
        f"{name}: attack must return the adversarial samples, a tensor of the shape of x, {list(x.shape)}"
    )
    if not isinstance(x_adv, Tensor):
        raise TypeError(f"{wanted}, got {type(x_adv).__name__}")
    if x_adv.shape != x.shape:
        raise ValueError(f"{wanted}, got {list(x_adv.shape)}")
    return x_adv


class Evaluated(NamedTuple):
    """A batch's loss and what it was computed from.

    Attributes:
        loss: [] float, to be differentiated.
        right: [] int64: how many of the (adversarial) samples the model got right in this very forward pass.
    """

    loss: Tensor
    right: Tensor


class AdversarialLoss:
    """The mean loss at the samples that an attack makes, with the gradient of the maximum over the ball.

    The inner half of min over weights of the mean of max over ||delta|| <= eps of the loss: Madry et al.,
    "Towards deep learning models resistant to adversarial attacks" (ICLR 2018), eq. (2.1). By Danskin's
    theorem the gradient of the maximum is the gradient at the delta that attains it, delta held fixed; so
    nothing is differentiated through the attack.

    In a loop of one's own:

        attack = PGD(eps=8 / 255, steps=10, early_stop=False, seed=torch.Generator().manual_seed(0))
        loss = AdversarialLoss(attack)
        for x, y in loader:
            optimizer.zero_grad()
            loss(model, x, y).backward()
            optimizer.step()

    Give the attack a generator as its seed: with a number every batch would start at the same points. The
    attack meets the model in eval mode and leaves modes, BatchNorm's statistics and .grad as they are; the
    forward pass of the loss runs in the modes that the model is in, so call `model.train()` as ever. Under
    `DistributedDataParallel` the attack meets the module within.

    With `mix` below 1, clean samples count as well, as in Goodfellow, Shlens, Szegedy (ICLR 2015), section 6:
    mix * mean loss(x_adv) + (1 - mix) * mean loss(x). Both are in one forward pass of 2 B rows, so that
    BatchNorm's statistics are those of the mixture.

    Args:
        attack: (model, x, y) -> x_adv, given `ids=` as well if it takes them; None for natural training, on
            x itself.
        loss: (logits, y) -> scalar, a mean over samples.
        mix: the adversarial samples' share of the loss, in (0, 1]; without an attack it means nothing.
        autocast: run the forward pass of the loss under torch.autocast with this dtype. The attack's own
            passes are the business of its field of the same name. Logits and loss are float32 either way.

    Raises:
        TypeError: the attack is none, or a class.
        ValueError: mix or autocast is out of range.
    """

    def __init__(
        self,
        attack: MakeAdversarial | None,
        loss: MeanLoss = F.cross_entropy,
        *,
        mix: float = 1.0,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Refuse settings that are none."""
        refuse_class("AdversarialLoss", "attack", attack)
        if attack is not None and not callable(attack):
            raise TypeError(f"AdversarialLoss: attack must be callable or None, got {attack!r}")
        if not is_real(mix) or not 0 < mix <= 1:
            raise ValueError(f"AdversarialLoss: mix must be a number in (0, 1], got {mix!r}")
        if autocast not in (None, torch.float16, torch.bfloat16):
            raise ValueError(
                f"AdversarialLoss: autocast must be torch.float16, torch.bfloat16 or None, got {autocast}"
            )
        self.attack: MakeAdversarial | None = attack
        self.loss: MeanLoss = loss
        self.mix: float = float(mix)
        self.autocast: torch.dtype | None = autocast

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Tensor:
        """The loss [] of a batch; see `evaluate`."""
        return self.evaluate(model, x, y, ids).loss

    def evaluate(self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Evaluated:
        """The loss of a batch, and how many samples the model gets right.

        Args:
            model: [B, ...] -> logits [B, K].
            x: [B, ...] samples. B may be 0, for a process that has no part of a batch: the loss is then 0.
            y: [B] int64 classes.
            ids: [B] int64: which random numbers each sample gets; None is as the attack numbers them. With
                ids a sample's start does not depend on how batches are cut. An attack that takes none is
                given none.

        Raises:
            TypeError, ValueError: the attack returns no tensor of the shape of x.
        """
        seen = self.worst_case(model, x, y, ids)
        both = self.mix < 1 and self.attack is not None
        with torch.autocast(x.device.type, self.autocast) if self.autocast else contextlib.nullcontext():
            logits: Tensor = model(torch.cat([seen, x]) if both else seen)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if len(x) == 0:
            return Evaluated(logits.sum(), torch.zeros((), dtype=torch.int64, device=x.device))
        at_seen = logits[: len(x)]
        loss = self.loss(at_seen, y)
        if both:
            loss = self.mix * loss + (1 - self.mix) * self.loss(logits[len(x) :], y)
        return Evaluated(loss, (at_seen.detach().argmax(1) == y).sum())

    def worst_case(self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Tensor:
        """What the attack makes of a batch, as a constant; without an attack the batch itself."""
        if self.attack is None:
            return x
        net = model.module if isinstance(model, DistributedDataParallel) else model
        return attacked("AdversarialLoss", self.attack, net, x, y, ids).detach()
