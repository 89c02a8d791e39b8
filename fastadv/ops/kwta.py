"""k winners take all."""

from typing import Literal

import torch
from torch import Tensor

from fastadv import _checks, reference
from fastadv._library import is_native
from fastadv.ops._arguments import in_format_of

Per = Literal["sample", "channel", "last"]
Ties = Literal["all", "lowest_index"]
Backward = Literal["mask", "straight_through"]


def kwta(
    x: Tensor,
    k: int,
    *,
    per: Per = "sample",
    ties: Ties = "all",
    backward: Backward = "mask",
) -> Tensor:
    """k winners take all: the k largest elements of each row keep their values, all others become +0.

    Xiao, Zhong and Zheng, "Enhancing adversarial defense by k-winners-take-all" (ICLR 2020), eq. (1); the
    survey's section 8. Values are compared with their signs, so a row of negative numbers keeps k of them.
    NaN ranks largest, as in torch.topk, and stays where it is: a loser is +0 whatever it was. -0 equals +0.

    Args:
        x: [B, ...].
        k: number of winners, 1 .. N with N the length of a row.
        per: what a row is: all of a "sample" (C*H*W), each "channel" of it (H*W), or the "last" dimension.
        ties: elements that equal the k-th largest: "all" of them win, as in the authors' code, or those of
            "lowest_index" in contiguous order, so that exactly k win.
        backward: "mask" gives the gradient to the winners, which is the derivative wherever there is one;
            "straight_through" gives all of it to all, as if the layer were the identity (BPDA, Athalye et
            al., ICML 2018, section 4.1).

    Returns:
        [B, ...] in the dtype and memory format of x; differentiable once with "mask" (RuntimeError the
        second time). For the backward pass one bit per element is kept, not x.

    Raises:
        ValueError: k, per, ties or backward is none of these.
    """
    args = _kwta_arguments("kwta", x, k, per, ties)
    if backward not in ("mask", "straight_through"):
        raise ValueError(f"fastadv::kwta: backward must be 'mask' or 'straight_through', got {backward!r}")
    if is_native(x):
        needed = backward == "mask" and x.requires_grad and torch.is_grad_enabled()
        return torch.ops.fastadv.kwta.default(*args, backward, needed)[0]
    return in_format_of(x, reference.kwta(x, k, per=per, ties=ties, backward=backward))


def kwta_mask(x: Tensor, k: int, *, per: Per = "sample", ties: Ties = "all") -> Tensor:
    """Which elements `kwta` with these arguments keeps: bool, shaped like x. A winner may well be 0."""
    args = _kwta_arguments("kwta_mask", x, k, per, ties)
    if not is_native(x):
        return in_format_of(x, reference.kwta_mask(x, k, per=per, ties=ties))
    out, winners = torch.ops.fastadv.kwta.default(*(x.detach(), *args[1:]), "mask", True)
    return torch.ops.fastadv.kwta_backward.default(torch.ones_like(out), winners, per, ties).bool()


def _kwta_arguments(op: str, x: Tensor, k: int, per: Per, ties: Ties) -> tuple[Tensor, int, Per, Ties]:
    """The leading arguments as the schema has them."""
    _checks.samples(op, "x", x)
    _checks.no_forward_mode(op, x)
    _, _, cols = _checks.winner_rows(op, "x", x, per, ties)
    _checks.winner_count(op, k, cols)
    return x, k, per, ties
