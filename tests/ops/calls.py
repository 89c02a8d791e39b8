"""A call of every operator with the arguments of its schema, for tests of what holds for all of them."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.ops.inputs import step_inputs

CASES = [0.0, 1.0, 1.1, 1.5, 2.0, 3.0, 7.0, math.inf, None]
"""Norms, and None for the operators that have none."""

Call = tuple[Any, tuple[Any, ...]]


def calls(
    dtype: torch.dtype, device: str, case: float | None, *, seed: int = 0, requires_grad: bool = False
) -> Iterator[Call]:
    """(operator, positional arguments) of every operator that has this norm, or of those without one.

    From seed to seed tensors differ in their numbers; those on the CPU, which the host reads, do not.
    """
    x_adv, x, grad = step_inputs((3, 4, 5, 6), dtype, device, seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    each = torch.tensor([0.1, 0.2, 0.0], dtype=wide, device=device).roll(seed)
    active = torch.tensor([True, False, True], device=device).roll(seed)
    key = torch.tensor([1 + seed, 2], device=device)
    ids = torch.tensor([7, 8, 9], device=device).roll(seed)
    scalar = torch.tensor(0.3, dtype=wide)
    grad.requires_grad_(requires_grad)
    if case is not None:
        yield from _calls_with_a_norm(case, x_adv, x, grad, scalar, each, active, key, ids)
    else:
        yield from _calls_without_a_norm(x_adv, x, grad, scalar, each, active, key, ids)


def _calls_with_a_norm(
    norm: float,
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    scalar: Tensor,
    each: Tensor,
    active: Tensor,
    *of_draws: Any,
) -> Iterator[Call]:
    library, last = torch.ops.fastadv, torch.channels_last
    radius, radii = (scalar, each) if norm else (torch.full_like(scalar, 9), 30 * each)
    spread_out = (True, None, 7 if norm == 1 else 1, norm == 0)
    keep = (True, active, 1, False, torch.zeros_like(x), ~active)
    moved = x_adv.to(memory_format=last)
    yield library.pgd_step, (x_adv, x, grad, radius, scalar, norm, 0.0, 1.0)
    yield library.pgd_step, (x_adv, x, grad, radius, scalar, norm, 0.0, 1.0, *spread_out)
    yield library.pgd_step, (moved, x, grad, radii, each, norm, 0.0, 1.0, False, active)
    yield library.pgd_step_, (x_adv.clone(), x, grad, radius, each, norm, -math.inf, math.inf)
    yield library.pgd_step_, (x_adv.clone(), x, grad, radius, each, norm, 0.0, 1.0, *keep)
    yield library.project, (grad, radii, norm)
    yield library.project, (grad.to(memory_format=last), radius, norm)
    yield library.project, (grad, radii, norm, x, 0.0, 1.0, norm == 0)
    if norm != 0:
        key, ids = of_draws
        yield library.steepest, (grad, norm)
        yield library.random_in_ball, (x, each, norm, 0.0, 1.0, key, ids)
        yield library.random_in_ball, (x.transpose(0, 1), scalar, norm, 0.0, 1.0, key)


def _calls_without_a_norm(
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    scalar: Tensor,
    each: Tensor,
    active: Tensor,
    key: Tensor,
    ids: Tensor,
) -> Iterator[Call]:
    library, last = torch.ops.fastadv, torch.channels_last
    constant = grad.detach()
    for kind in ("normal", "uniform"):
        yield library.add_noise, (grad, 2, kind, 0.1, 0.0, 1.0, key, ids, 3)
    yield library.add_noise, (grad.transpose(0, 1), 2, "sign", 0.1, -math.inf, math.inf, key)
    clean, noisy = constant[0, :, 0], constant[:, :, 0]
    sums = torch.ones(4, 6, dtype=torch.float64, device=x.device)
    yield library.gap_moments, (clean, noisy)
    yield library.gap_moments, (clean, noisy, sums, sums)
    gaps, mean, std = constant[:2, :3, :4, :4].double().contiguous().unbind(1)
    std = 0.1 + std.abs()
    yield library.odds_score, (gaps, torch.arange(4, device=x.device), mean, std, True)
    yield library.kwta, (grad, 7)
    yield library.kwta, (grad.to(memory_format=last), 7, "sample", "lowest_index", "straight_through", False)
    yield library.kwta, (grad.transpose(1, 2), 3, "channel")
    words = key[0].int() * torch.arange(12, dtype=torch.int32, device=x.device).view(3, 4)
    yield (
        library.kwta_backward,
        (constant.to(memory_format=last), words),
    )  # which refuses to be differentiated
    words = key[0].int() * torch.arange(60, dtype=torch.int32, device=x.device).view(60, 1)
    yield library.kwta_backward, (constant, words, "last")
    place, *means = (x.to(scalar.dtype).clone() for _ in range(3))
    yield library.cw_step_, (x_adv.clone(), place, *means, x, constant, scalar, each, 0.1, 2, 0.0, 1.0)
    hinge = (each, active, torch.zeros_like(x), ~active)
    moved, state = x_adv.to(memory_format=last, copy=True), copies([place, *means])
    yield library.cw_step_, (moved, *state, x, constant, each, scalar, 0.1, 1, 0.0, 1.0, *hinge)


def copies(values: Any) -> list[Any]:
    """Tensors cloned, in their memory format; the rest as it is."""
    return [value.clone() if isinstance(value, Tensor) else value for value in values]


def results_of(op: Any, args: Any) -> list[Tensor]:
    """What a call returns, and then its arguments, which an in-place operator has changed."""
    out = op.default(*args)
    returned = [] if out is None else [out] if isinstance(out, Tensor) else list(out)
    return [*returned, *(arg for arg in args if isinstance(arg, Tensor))]
