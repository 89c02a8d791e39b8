"""k winners take all, by a full selection."""

from typing import Any

import torch
from torch import Tensor

from fastadv import _checks


def kwta(
    x: Tensor,
    k: int,
    *,
    per: str = "sample",
    ties: str = "all",
    backward: str = "mask",
) -> Tensor:
    """The k largest of each row, 0 elsewhere; see `fastadv.ops.kwta`."""
    return _KeepWinners.apply(x, kwta_mask(x, k, per=per, ties=ties), backward == "straight_through")


def kwta_mask(x: Tensor, k: int, *, per: str = "sample", ties: str = "all") -> Tensor:
    """Which elements win, as bool; see `fastadv.ops.kwta_mask`."""
    first, _, _ = _checks.winner_rows("kwta", "x", x, per, ties)
    values = x.detach().flatten(first)
    if ties == "lowest_index":
        order = values.sort(dim=-1, descending=True, stable=True).indices  # NaN first, -0 equal to +0
        mask = torch.zeros_like(values, dtype=torch.bool).scatter_(-1, order[..., :k], True)
    else:
        threshold = values.topk(k, dim=-1).values[..., -1:]
        mask = (values >= threshold) | values.isnan()
    return mask.reshape(x.shape)


class _KeepWinners(torch.autograd.Function):
    """x where the mask is set, with the derivative of that, or of the identity ("straight through")."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, straight_through: bool) -> Tensor:
        ctx.straight_through = straight_through
        if not straight_through:
            ctx.save_for_backward(mask)
        return torch.where(mask, x, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.straight_through:
            return grad, None, None
        return _DifferentiableOnce.apply(grad, *ctx.saved_tensors), None, None


class _DifferentiableOnce(torch.autograd.Function):
    """The backward pass of k-WTA, which has no backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, grad, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        raise RuntimeError(_checks.NO_DOUBLE_BACKWARD)
