"""Fake kernels and derivatives of k winners take all."""

from typing import Any

import torch
from torch import Tensor

from fastadv import _checks
from fastadv._registration._common import Derivatives, Fakes


def _fake_kwta(
    x: Tensor, k: int, per: str = "sample", ties: str = "all", backward: str = "mask", winners: bool = True
) -> tuple[Tensor, Tensor]:
    _checks.samples("kwta", "x", x)
    _, rows, cols = _checks.winner_rows("kwta", "x", x, per, ties)
    _checks.winner_count("kwta", k, cols)
    words = (rows, (cols + 31) // 32) if winners else (0, 0)
    return torch.empty_like(x), x.new_empty(words, dtype=torch.int32)


def _fake_kwta_backward(grad: Tensor, winners: Tensor, per: str = "sample", ties: str = "all") -> Tensor:
    _checks.winners_of("kwta_backward", winners, grad, per, ties)
    return torch.empty_like(grad)


def _kwta_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, ctx.per, ctx.ties, ctx.rule, has_winners = inputs
    y, winners = output
    ctx.strides = y.stride()
    if ctx.rule == "mask":
        if not has_winners:
            raise RuntimeError("fastadv::kwta: backward='mask' needs winners=True where x requires grad")
        ctx.save_for_backward(winners)


def _kwta_backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, None, None, None, None, None]:
    """The gradient of the winners: the mask is a constant wherever k-WTA has a derivative."""
    if ctx.rule == "mask":
        if grad.stride() != ctx.strides:  # the bits are in the output's memory order
            grad = torch.empty_strided(grad.shape, ctx.strides, dtype=grad.dtype, device=grad.device).copy_(
                grad
            )
        grad = torch.ops.fastadv.kwta_backward.default(grad, *ctx.saved_tensors, ctx.per, ctx.ties)
    return grad, None, None, None, None, None


def _refuse_double_backward(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(_checks.NO_DOUBLE_BACKWARD)


FAKES: Fakes = {"kwta": _fake_kwta, "kwta_backward": _fake_kwta_backward}
DERIVATIVES: Derivatives = {
    "kwta": (_kwta_backward, _kwta_setup),
    "kwta_backward": (_refuse_double_backward, None),
}
