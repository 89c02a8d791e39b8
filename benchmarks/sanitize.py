"""Every operator in every norm, dtype and tier on small odd shapes: what compute-sanitizer watches.

    compute-sanitizer --tool memcheck python -m benchmarks.sanitize

Inputs are copied from the host and results are checked there, so that next to no kernels run but ours. A new
operator joins by one line in `calls`; k-WTA runs in every tier that can hold the row.
"""

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import fastadv
from fastadv import ops, reference

# A warp, a block and several blocks per sample; one short of a pack, one beyond; samples of one element.
SHAPES = [(3, 1), (3, 31), (2, 3, 7, 11), (2, 2049), (2, 16385)]
NORMS = [math.inf, 2.0]
# Those whose kernels sweep over a sample, in a small block or, from 2049 elements on, in a large one; two
# closed forms and the general case.
SWEPT_NORMS = [0.0, 1.0, 1.5, 3.0, 7.0]
LONGEST_SWEPT = 4096
# Two units in the last place at 1: an l2 result may lie on the other side of a rounding boundary.
ATOL = {torch.float32: 2.0**-22, torch.float64: 2.0**-51, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}
# Normals are float32 values, whose logarithm and cosine the GPU may round otherwise than the CPU.
NORMAL_ATOL = 1e-6

Move = Callable[[Tensor], Tensor]
Call = Callable[[ModuleType, Move], Tensor]


def calls(shape: tuple[int, ...], dtype: torch.dtype, norm: float) -> Iterator[tuple[float, Call]]:
    """(tolerance, call): a call takes the module to ask, ops or reference, and how to move inputs there."""
    x = torch.rand(shape, dtype=torch.float64).to(dtype)
    x_adv = (x.double() + 0.1 * torch.randn(shape, dtype=torch.float64)).clamp(0, 1).to(dtype)
    grad = torch.randn(shape, dtype=torch.float64).to(dtype)
    each = torch.linspace(0, 0.3, len(x), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    active = torch.arange(len(x)) != 1
    ids = torch.arange(len(x)) + 2**40
    seed = torch.tensor([7, 1])
    atol = ATOL[dtype]

    def step(m: ModuleType, to: Move, rule: str) -> Tensor:
        return m.pgd_step(to(x_adv), to(x), to(grad), eps=0.1, step_size=0.03, norm=norm, rule=rule)

    def own_step(m: ModuleType, to: Move, rule: str) -> Tensor:
        own = {"eps": to(each), "step_size": to(each), "active": to(active)}
        own |= {"best": to(x.clone()), "better": to(active)}
        return m.pgd_step_(to(x_adv.clone()), to(x), to(grad), norm=norm, rule=rule, **own)

    for rule in ("steepest", "gradient"):
        yield atol, partial(step, rule=rule)
        yield atol, partial(own_step, rule=rule)
    yield atol, lambda m, to: m.project(to(grad), 0.4, norm)
    yield atol, lambda m, to: m.project(to(grad), to(each), norm)
    yield atol, lambda m, to: m.steepest(to(grad), norm)
    atol = max(atol, NORMAL_ATOL)
    yield atol, lambda m, to: m.random_in_ball(to(x), 0.3, norm, seed=to(seed))
    yield atol, lambda m, to: m.random_in_ball(to(x), to(each), norm, bounds=None, seed=to(seed), ids=to(ids))


def swept_calls(shape: tuple[int, ...], dtype: torch.dtype, norm: float) -> Iterator[tuple[float, Call]]:
    """As `calls`, for the norms whose kernels sweep, and for the box with norms 2 and inf."""
    x = torch.rand(shape, dtype=torch.float64).to(dtype)
    grad = torch.randn(shape, dtype=torch.float64).to(dtype)
    count = x[0].numel()
    radius = max(1.0, count // 3) if norm == 0 else 0.4 * count ** (1 / norm)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    each = torch.linspace(0, 1.5 * radius, len(x), dtype=wide)
    # What float32 aims below the sphere, of a radius that few elements of a box may have to make up for.
    atol = ATOL[dtype] + 4 * radius * reference.SLACK[wide]
    box = {"bounds": (0.0, 1.0)}
    yield atol, lambda m, to: m.project(to(grad), to(each), norm, x=to(x), **box, pixels=norm == 0)
    if norm in NORMS:
        return
    yield atol, lambda m, to: m.project(to(grad), radius, norm)
    ways = [{"rule": "steepest"}, {"rule": "gradient"}]
    ways += [{"spread": 5}] if norm == 1 else [{"pixels": True}] if norm == 0 else []
    active = torch.arange(len(x)) != 1
    for way in ways:

        def step(m: ModuleType, to: Move, way: dict[str, Any] = way) -> Tensor:
            own = {"eps": to(each), "step_size": to(each), "active": to(active)}
            own |= {"best": to(x.clone()), "better": to(active)}
            return m.pgd_step_(to(x.clone()), to(x), to(grad), norm=norm, **own, **way)

        yield atol, step
    if norm != 0:
        yield atol, lambda m, to: m.steepest(to(grad), norm)
        ids, seed = torch.arange(len(x)) + 2**40, torch.tensor([7, 1])
        yield (
            max(atol, NORMAL_ATOL),
            lambda m, to: m.random_in_ball(to(x), to(each), norm, seed=to(seed), ids=to(ids)),
        )


def kwta_tiers(cols: int, device: str) -> list[str]:
    """The tiers that can hold a row of so many float64 on any GPU; a name means nothing to a CPU."""
    clusters = device != "cuda" or torch.cuda.get_device_capability() >= (9, 0)
    fits = {"warp": cols <= 512, "block": cols <= 8192, "cluster": clusters, "global": True}
    return [tier for tier in fits if fits[tier]]


def kwta_calls(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Iterator[tuple[float, Call]]:
    """As `calls`, for both passes of k-WTA on numbers with many ties."""
    x = ((4 * torch.randn(shape, dtype=torch.float64)).round() / 4).to(dtype)
    grad = torch.randn(shape, dtype=torch.float64).to(dtype)
    cols = x[0].numel()

    def both_passes(m: ModuleType, to: Move, tier: str, ties: str) -> Tensor:
        os.environ["FASTADV_KWTA_TIER"] = tier
        own = to(x).detach().requires_grad_()
        out = m.kwta(own, max(1, cols // 10), ties=ties)
        out.backward(to(grad))
        assert own.grad is not None
        return torch.stack([out.detach(), own.grad])

    for tier in kwta_tiers(cols, device):
        for ties in ("all", "lowest_index"):
            yield 0.0, partial(both_passes, tier=tier, ties=ties)
    os.environ.pop("FASTADV_KWTA_TIER")
    yield 0.0, lambda m, to: m.kwta_mask(to(x), max(1, cols // 10))


def odds_calls(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[float, Call]]:
    """As `calls`, for the noise and the statistics of a detector."""
    x = torch.rand(shape, dtype=torch.float64).to(dtype)
    ids, seed = torch.arange(len(x)) + 2**40, torch.tensor([7, 1])
    for kind in ("normal", "uniform", "sign"):
        atol = max(ATOL[dtype], NORMAL_ATOL) if kind == "normal" else ATOL[dtype]

        def noisy(m: ModuleType, to: Move, kind: str = kind) -> Tensor:
            return m.add_noise(to(x), 2, kind=kind, scale=0.1, seed=to(seed), ids=to(ids), first_draw=1)

        yield atol, noisy
    classes = x.flatten(1).shape[1] + 1
    clean = torch.randn(len(x), classes, dtype=torch.float64).to(dtype)
    draws = torch.randn(3, len(x), classes, dtype=torch.float64).to(dtype)
    yield 0.0, lambda m, to: torch.stack(m.gap_moments(to(clean), to(draws)))
    gaps = torch.randn(2, len(x), min(classes, 100), dtype=torch.float64)
    known = torch.rand(2, gaps.shape[2], gaps.shape[2], dtype=torch.float64) + 0.1
    labels = torch.zeros(len(x), dtype=torch.int64)
    yield 0.0, lambda m, to: m.odds_score(to(gaps), to(labels), to(known), to(known))[0]


def cw_calls(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[float, Call]]:
    """As `calls`, for the step in tanh space: the new images."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = (0.1 + 0.8 * torch.rand(shape, dtype=torch.float64)).to(dtype)
    grad = torch.randn(shape, dtype=torch.float64).to(dtype)
    w = torch.atanh(2 * x.to(wide) - 1)
    active = torch.arange(len(x)) != 1

    def moved(m: ModuleType, to: Move, tau: float | None) -> Tensor:
        own = to(x.clone())
        moments = to(0.1 * torch.ones_like(w)), to(0.1 * torch.ones_like(w))
        m.cw_step_(
            own, to(w.clone()), *moments, to(x), to(grad), c=0.5, lr=0.01, step=2, tau=tau, active=to(active)
        )
        return own

    for tau in (None, 0.01):
        yield max(ATOL[dtype], NORMAL_ATOL), partial(moved, tau=tau)


def every_call(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Iterator[tuple[float, Call]]:
    """All calls for samples of one shape and dtype."""
    for norm in NORMS:
        yield from calls(shape, dtype, norm)
    if math.prod(shape[1:]) <= LONGEST_SWEPT:
        for norm in NORMS + SWEPT_NORMS:
            yield from swept_calls(shape, dtype, norm)
    yield from kwta_calls(shape, dtype, device)
    yield from odds_calls(shape, dtype)
    yield from cw_calls(shape, dtype)


def off_boundary(tensor: Tensor, device: str) -> Tensor:
    """The tensor on the device, with its first element off a 16-byte boundary."""
    host = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
    host[1:] = tensor.flatten()
    return host.to(device)[1:].view(tensor.shape)


def main(device: str = "cuda") -> None:
    """Make all calls, aligned and not, and compare each result with the reference's on the CPU."""
    fastadv.backend("native")
    torch.manual_seed(0)
    moves: list[Move] = [lambda t: t.to(device, copy=True), lambda t: off_boundary(t, device)]
    count = 0
    for shape in SHAPES:
        for dtype in ATOL:
            for atol, call in every_call(shape, dtype, device):
                expected = call(reference, lambda tensor: tensor)
                for move in moves:
                    out = call(ops, move).cpu()
                    torch.testing.assert_close(out, expected, rtol=ATOL[dtype], atol=atol)
                    count += 1
    print(f"sanitize: {count} calls agree with the reference")


if __name__ == "__main__":
    main()
