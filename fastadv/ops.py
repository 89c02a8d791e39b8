"""The operators: one typed function per kernel, native where it was built, the reference elsewhere.

Samples are any dense or strided tensor [B, ...] of float32, float64, float16 or bfloat16; everything after
the first dimension is one sample. channels_last is as fast as contiguous. `eps` and `step_size` are a
number or a tensor [] or [B]. Arithmetic happens in float32 (float64 for float64), norms are accumulated in
float64, and results are rounded towards the ball's centre where rounding to nearest would leave the ball.

Only shapes, dtypes, devices and Python numbers are checked: no operator waits for a GPU. RuntimeError is
raised for tensors that do not fit together, ValueError for numbers out of range.

The same kernels are `torch.ops.fastadv.*`, with the schemas of csrc/ops.cpp.
"""

import math
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from fastadv import _checks, reference
from fastadv._checks import Bounds
from fastadv._library import is_native

Rule = Literal["steepest", "gradient"]
Per = Literal["sample", "channel", "last"]
Ties = Literal["all", "lowest_index"]
Backward = Literal["mask", "straight_through"]
NoiseKind = Literal["normal", "uniform", "sign"]

__all__ = [
    "add_noise",
    "gap_moments",
    "kwta",
    "kwta_mask",
    "odds_score",
    "pgd_step",
    "pgd_step_",
    "project",
    "random_in_ball",
    "steepest",
]


def pgd_step(
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: float = math.inf,
    bounds: Bounds = (0.0, 1.0),
    rule: Rule = "steepest",
    active: Tensor | None = None,
) -> Tensor:
    """One step of projected gradient ascent: move, project on the lp ball around x, clamp to the box.

    Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018), eq. (2), and
    the survey's section 5. The result is inside ball and box, which is the exact projection on their
    intersection for norm inf and a feasible point of it for norm 2.

    Args:
        x_adv: [B, ...] current iterates.
        x: [B, ...] centres of the balls, inside the bounds.
        grad: [B, ...] gradient of what is to be maximised. A NaN moves nothing (for norm 2: its sample).
        eps: radius, in the units of x; float or [B].
        step_size: length of the step, in the units of x; float or [B].
        norm: math.inf or 2.
        bounds: (lower, upper) of every element, or None.
        rule: "steepest" moves by step_size * steepest(grad, norm), "gradient" by step_size * grad.
        active: [B] bool; samples that are False come back bit for bit.

    Returns:
        [B, ...] in the dtype and memory format of x_adv. Never requires grad: an attack is not
        differentiated through.
    """
    args = _step_arguments("pgd_step", x_adv, x, grad, eps, step_size, norm, bounds, rule, active)
    if is_native(x_adv):
        return torch.ops.fastadv.pgd_step.default(*args)
    return _in_format_of(x_adv, _reference_step("pgd_step", *args))


def pgd_step_(
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: float = math.inf,
    bounds: Bounds = (0.0, 1.0),
    rule: Rule = "steepest",
    active: Tensor | None = None,
    best: Tensor | None = None,
    better: Tensor | None = None,
) -> Tensor:
    """`pgd_step` in place: overwrites x_adv and returns it. Allocates nothing for flat inputs.

    An attack that returns its best iterate can have it kept on the way: samples that are True in `better`
    ([B] bool) leave x_adv in `best` (like x_adv) before they move, for the price of one write.
    """
    if x_adv.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("fastadv::pgd_step_: x_adv requires grad and cannot be overwritten: detach it")
    args = _step_arguments("pgd_step_", x_adv, x, grad, eps, step_size, norm, bounds, rule, active)
    if is_native(x_adv):
        torch.ops.fastadv.pgd_step_.default(*args, best, better)
        if not torch.compiler.is_compiling():
            torch.autograd.graph.increment_version(x_adv)  # who saved x_adv for backward gets an error
        return x_adv
    return _reference_step("pgd_step_", *args, best=best, better=better)


def project(delta: Tensor, eps: float | Tensor, norm: float) -> Tensor:
    """The Euclidean projection of each sample on the lp ball of radius eps around 0.

    x is the projection of v outside the ball iff ||x||_p = eps and <v - x, x> = eps * ||v - x||_q with
    1/p + 1/q = 1. Points inside keep their bits, so projecting twice is projecting once.

    Args:
        delta: [B, ...].
        eps: radius; float or [B].
        norm: math.inf or 2.

    Returns:
        [B, ...] in the dtype and memory format of delta; differentiable in delta and eps.
    """
    norm = _checks.norm_value("project", norm)
    _checks.samples("project", "delta", delta)
    _checks.no_forward_mode("project", delta)
    eps = _per_sample("project", "eps", eps, delta)
    if is_native(delta):
        return torch.ops.fastadv.project.default(delta, eps, norm)
    _checks.scalar_or_per_sample("project", "eps", eps, delta)
    return _in_format_of(delta, reference.project(delta, eps, norm))


def steepest(grad: Tensor, norm: float) -> Tensor:
    """The direction of steepest ascent: argmax of <u, grad> over the unit lp ball.

    sign(grad) for norm inf, grad / ||grad||_2 for norm 2 however small grad is; 0 where grad is 0, and for
    a sample whose l2 norm is not finite. The survey's section 5, "steepest-descent PGD".

    Args:
        grad: [B, ...].
        norm: math.inf or 2.

    Returns:
        [B, ...] in the dtype and memory format of grad; differentiable (with derivative 0 for norm inf).
    """
    norm = _checks.norm_value("steepest", norm)
    _checks.samples("steepest", "grad", grad)
    _checks.no_forward_mode("steepest", grad)
    if is_native(grad):
        return torch.ops.fastadv.steepest.default(grad, norm)
    return _in_format_of(grad, reference.steepest(grad, norm))


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
    return _in_format_of(x, reference.kwta(x, k, per=per, ties=ties, backward=backward))


def kwta_mask(x: Tensor, k: int, *, per: Per = "sample", ties: Ties = "all") -> Tensor:
    """Which elements `kwta` with these arguments keeps: bool, shaped like x. A winner may well be 0."""
    args = _kwta_arguments("kwta_mask", x, k, per, ties)
    if not is_native(x):
        return _in_format_of(x, reference.kwta_mask(x, k, per=per, ties=ties))
    out, winners = torch.ops.fastadv.kwta.default(*(x.detach(), *args[1:]), "mask", True)
    return torch.ops.fastadv.kwta_backward.default(torch.ones_like(out), winners, per, ties).bool()


def random_in_ball(
    x: Tensor,
    eps: float | Tensor,
    norm: float = math.inf,
    *,
    bounds: Bounds = (0.0, 1.0),
    seed: int | tuple[int, int] | Tensor,
    ids: Tensor | None = None,
) -> Tensor:
    """x plus a point drawn uniformly from the volume of the eps ball, clamped to the box.

    The numbers are Philox4x32-10 with the seed as key and (element, sample id, offset) as counter: the same
    on every device, for any batch size or chunking, and the global generator is not touched.

    Args:
        x: [B, ...] centres, inside the bounds.
        eps: radius, in the units of x; float or [B].
        norm: math.inf or 2.
        bounds: (lower, upper) of every element, or None.
        seed: a key in [0, 2^63), or (key, offset) as a tuple or an int64 tensor on x's device; the offset
            (below 2^32) numbers independent draws under one key.
        ids: [B] int64, the samples' numbers; default 0 .. B-1. Sample s under a seed always gets the
            same point.

    Returns:
        [B, ...] in the dtype and memory format of x. Never requires grad.
    """
    norm = _checks.norm_value("random_in_ball", norm)
    _checks.samples("random_in_ball", "x", x)
    lower, upper = _checks.interval("random_in_ball", bounds)
    eps = _per_sample("random_in_ball", "eps", eps, x)
    if not isinstance(seed, Tensor):
        seed = _seed_tensor("random_in_ball", seed, x.device)
    if is_native(x):
        return torch.ops.fastadv.random_in_ball.default(x, eps, norm, lower, upper, seed, ids)
    _checks.scalar_or_per_sample("random_in_ball", "eps", eps, x)
    _checks.seed_tensor("random_in_ball", seed, x)
    if ids is not None:
        _checks.one_per_sample("random_in_ball", "ids", ids, x, torch.int64)
    return _in_format_of(x, reference.random_in_ball(x, eps, norm, bounds=(lower, upper), seed=seed, ids=ids))


def add_noise(
    x: Tensor,
    draws: int,
    *,
    kind: NoiseKind = "normal",
    scale: float,
    bounds: Bounds = (0.0, 1.0),
    seed: int | tuple[int, int] | Tensor,
    ids: Tensor | None = None,
    first_draw: int = 0,
) -> Tensor:
    """Noisy copies of x, clamped to the box, in one pass.

    The numbers are Philox4x32-10 with the seed as key and (element, sample id, draw, offset) as counter: the
    same on every device, for any batch size or chunk of draws, and the global generator is not touched.

    Args:
        x: [B, ...].
        draws: number of copies, >= 1.
        kind: "normal" with standard deviation scale, "uniform" on (-scale, scale), or "sign", which is
            scale or -scale with equal odds: the sign of the uniform number.
        scale: in the units of x, >= 0.
        bounds: (lower, upper) of every element, or None.
        seed: as in `random_in_ball`.
        ids: [B] int64, the samples' numbers, which differ by less than 2^31; default 0 .. B-1.
        first_draw: number of the first draw: draws 0 .. 9 are draws 0 .. 4 and, from first_draw 5 on, 5 .. 9.

    Returns:
        [draws, B, ...] contiguous, in the dtype of x; differentiable in x (0 at the ends of the box).
    """
    _checks.samples("add_noise", "x", x)
    _checks.no_forward_mode("add_noise", x)
    _checks.positive_count("add_noise", "draws", draws)
    _checks.positive_count("add_noise", "first_draw", first_draw, least=0)
    _checks.noise_kind("add_noise", kind)
    scale = _checks.non_negative("add_noise", "scale", scale)
    lower, upper = _checks.interval("add_noise", bounds)
    if not isinstance(seed, Tensor):
        seed = _seed_tensor("add_noise", seed, x.device)
    if is_native(x):
        return torch.ops.fastadv.add_noise.default(x, draws, kind, scale, lower, upper, seed, ids, first_draw)
    _checks.seed_tensor("add_noise", seed, x)
    if ids is not None:
        _checks.one_per_sample("add_noise", "ids", ids, x, torch.int64)
    return reference.add_noise(
        x, draws, kind=kind, scale=scale, bounds=(lower, upper), seed=seed, ids=ids, first_draw=first_draw
    ).contiguous()


def gap_moments(
    clean_logits: Tensor, noisy_logits: Tensor, sums: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """How noise moves the gaps between the logits of the predicted class and of every other one.

    With t = argmax of the clean logits and g_i = (noisy_i - noisy_t) - (clean_i - clean_t), the sums over
    draws of g_i and of g_i^2. Roth, Kilcher and Hofmann, "The odds are odd: a statistical test for detecting
    adversarial examples" (ICML 2019); the survey's section 6. The clean logits are subtracted first, so
    nothing cancels in the squares.

    Args:
        clean_logits: [B, K].
        noisy_logits: [draws, B, K] of the same dtype.
        sums: what this function returned for earlier draws, to go on from. Draws are added one after the
            other, in float64, so the bits do not depend on how they were cut into chunks.

    Returns:
        (sum, sum of squares), each [B, K] float64, 0 at t. Never require grad.
    """
    _checks.logits_of_draws("gap_moments", clean_logits, noisy_logits, sums)
    if is_native(clean_logits):
        return torch.ops.fastadv.gap_moments.default(clean_logits, noisy_logits, *(sums or (None, None)))
    with torch.no_grad():
        return reference.gap_moments(clean_logits, noisy_logits, sums)


def odds_score(
    gaps: Tensor, predicted: Tensor, mean: Tensor, std: Tensor, *, two_sided: bool = False
) -> tuple[Tensor, Tensor]:
    """How odd the gaps of a sample are among those of its predicted class: the largest z-score.

    z_i is (g_i - mean_ti) / std_ti averaged over kinds of noise; the score is its maximum over i != t, and
    where it is taken is the class that noise moves the sample towards. Roth et al. (2019).

    Args:
        gaps: [kinds, B, K] float64, the mean of g over draws for each kind of noise.
        predicted: [B] int64, t, in 0 .. K-1; of anything else nothing is known.
        mean: [kinds, K, K] float64, of g by predicted class and class, over clean samples.
        std: likewise; where it is NaN nothing is known of the pair, and it does not count.
        two_sided: take the maximum of |z_i| instead.

    Returns:
        (score [B] float64, -inf where no pair is known; class [B] int64). Never require grad.
    """
    _checks.gap_statistics("odds_score", gaps, predicted, mean, std)
    if is_native(gaps):
        return torch.ops.fastadv.odds_score.default(gaps, predicted, mean, std, two_sided)
    with torch.no_grad():
        return reference.odds_score(gaps, predicted, mean, std, two_sided=two_sided)


_StepArguments = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, float, float, float, bool, Tensor | None
]  # those of the schema


def _step_arguments(
    op: str,
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: float,
    bounds: Bounds,
    rule: Rule,
    active: Tensor | None,
) -> _StepArguments:
    """The schema's arguments from the user's; the numbers among them are checked."""
    _checks.samples(op, "x_adv", x_adv)
    norm = _checks.norm_value(op, norm)
    lower, upper = _checks.interval(op, bounds)
    if rule not in ("steepest", "gradient"):
        raise ValueError(f"fastadv::{op}: rule must be 'steepest' or 'gradient', got {rule!r}")
    eps = _per_sample(op, "eps", eps, x_adv)
    step_size = _per_sample(op, "step_size", step_size, x_adv)
    return x_adv, x, grad, eps, step_size, norm, lower, upper, rule == "steepest", active


def _reference_step(op: str, *args: *_StepArguments, **keep: Tensor | None) -> Tensor:
    """The reference on the schema's arguments, after the checks that the native kernel makes itself."""
    x_adv, x, grad, eps, step_size, norm, lower, upper, steepest_rule, active = args
    _checks.like(op, "x", x, "x_adv", x_adv)
    _checks.like(op, "grad", grad, "x_adv", x_adv)
    _checks.scalar_or_per_sample(op, "eps", eps, x_adv)
    _checks.scalar_or_per_sample(op, "step_size", step_size, x_adv)
    if active is not None:
        _checks.one_per_sample(op, "active", active, x_adv, torch.bool)
    _checks.kept(op, x_adv, **keep)
    step = reference.pgd_step if op == "pgd_step" else reference.pgd_step_
    return step(
        x_adv,
        x,
        grad,
        eps=eps,
        step_size=step_size,
        norm=norm,
        bounds=(lower, upper),
        rule="steepest" if steepest_rule else "gradient",
        active=active,
        **keep,
    )


def _per_sample(op: str, name: str, value: float | Tensor, samples: Tensor) -> Tensor:
    """A number or tensor in the compute dtype; a number stays on the CPU, where the host reads it."""
    dtype = _checks.compute_dtype(samples.dtype)
    if isinstance(value, Tensor):
        return value.to(dtype)
    return torch.tensor(_checks.non_negative(op, name, value), dtype=dtype, device="cpu")


def _seed_tensor(op: str, seed: int | tuple[int, int], device: torch.device) -> Tensor:
    """(key, offset) on the device, filled by kernels there: a copy from the host would wait for a GPU."""
    key, offset = seed if isinstance(seed, tuple) else (seed, 0)
    if not (isinstance(key, Integral) and 0 <= key < 2**63 and 0 <= offset < 2**32):
        raise ValueError(f"fastadv::{op}: seed must be in [0, 2^63), its offset in [0, 2^32), got {seed!r}")
    return torch.cat([torch.full((1,), number, dtype=torch.int64, device=device) for number in (key, offset)])


def _kwta_arguments(op: str, x: Tensor, k: int, per: Per, ties: Ties) -> tuple[Tensor, int, Per, Ties]:
    """The leading arguments as the schema has them."""
    _checks.samples(op, "x", x)
    _checks.no_forward_mode(op, x)
    _, _, cols = _checks.winner_rows(op, "x", x, per, ties)
    _checks.winner_count(op, k, cols)
    return x, k, per, ties


def _in_format_of(model: Tensor, result: Tensor) -> Tensor:
    """The result with the strides that a kernel gives it; mixed formats leave the reference with others."""
    out = torch.empty_like(model)
    return result if out.stride() == result.stride() else out.copy_(result)
