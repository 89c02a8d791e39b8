"""The geometry of attacks: steps, projections and random points in lp balls."""

import math
from typing import Literal

import torch
from torch import Tensor

from fastadv import _checks, reference
from fastadv._checks import Bounds, Norm
from fastadv._library import is_native
from fastadv.ops._arguments import in_format_of, per_sample, seed_tensor

Rule = Literal["steepest", "gradient"]


def pgd_step(
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: Norm = math.inf,
    bounds: Bounds = (0.0, 1.0),
    rule: Rule = "steepest",
    active: Tensor | None = None,
    spread: int = 1,
    pixels: bool = False,
) -> Tensor:
    """One step of projected gradient ascent: move, then project on the lp ball around x and the box.

    Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018), eq. (2), and
    the survey's section 5. The projection is the exact one on the intersection of ball and box, but for
    norm 2, where it is that on the ball, clamped to the box.

    The steepest step of norm 1 is argmax <u, grad> over ||u||_1 <= step_size, |u_i| <= step_size / spread
    and x_adv + u in the box: from the largest gradient on each element moves as far as it has room, until
    the step is used up (Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
    classifiers", ICML 2021, section 3; spread as in Tramer and Boneh, "Adversarial training and robustness
    for multiple perturbations", NeurIPS 2019). So it does not stall on elements that are at their bound.
    The ball of norm 0 has no steepest direction: the step is that of norm 2.

    Args:
        x_adv: [B, ...] current iterates. A NaN stays one (norm inf: its element, otherwise its sample);
            norm 0 goes back to x there.
        x: [B, ...] centres of the balls, inside the bounds.
        grad: [B, ...] gradient of what is to be maximised. A NaN moves nothing (norm inf: its element,
            otherwise its sample).
        eps: radius, in the units of x; float or [B]. For norm 0 how many elements (pixels) may differ from x,
            rounded down. In a tensor a negative one counts as 0, and a NaN makes its sample NaN.
        step_size: length of the step, in the units of x; float or [B]. In a tensor a negative one and a NaN
            count as 0.
        norm: 0, 1 <= norm <= inf, or "linf", "l2", "l1", "l0".
        bounds: (lower, upper) of every element, or None.
        rule: "steepest" moves by step_size * steepest(grad, norm), "gradient" by step_size * grad.
        active: [B] bool; samples that are False come back bit for bit.
        spread: norm 1 only: the least number of elements that share a step, >= 1.
        pixels: norm 0 only: count pixels of [B, C, ...] samples, which have C channels each; in [B, N] each
            element is a pixel.

    Returns:
        [B, ...] in the dtype and memory format of x_adv. Never requires grad: an attack is not
        differentiated through.
    """
    args = _step_arguments(
        "pgd_step", x_adv, x, grad, eps, step_size, norm, bounds, rule, active, spread, pixels
    )
    if is_native(x_adv):
        return torch.ops.fastadv.pgd_step.default(*args)
    return in_format_of(x_adv, _reference_step("pgd_step", *args))


def pgd_step_(
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: Norm = math.inf,
    bounds: Bounds = (0.0, 1.0),
    rule: Rule = "steepest",
    active: Tensor | None = None,
    spread: int = 1,
    pixels: bool = False,
    best: Tensor | None = None,
    better: Tensor | None = None,
) -> Tensor:
    """`pgd_step` in place: overwrites x_adv and returns it. Allocates nothing for flat inputs.

    An attack that returns its best iterate can have it kept on the way: samples that are True in `better`
    ([B] bool) leave x_adv in `best` (like x_adv) before they move, for the price of one write.
    """
    if x_adv.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("fastadv::pgd_step_: x_adv requires grad and cannot be overwritten: detach it")
    args = _step_arguments(
        "pgd_step_", x_adv, x, grad, eps, step_size, norm, bounds, rule, active, spread, pixels
    )
    if is_native(x_adv):
        torch.ops.fastadv.pgd_step_.default(*args, best, better)
        if not torch.compiler.is_compiling():
            torch.autograd.graph.increment_version(x_adv)  # who saved x_adv for backward gets an error
        return x_adv
    return _reference_step("pgd_step_", *args, best=best, better=better)


def project(
    delta: Tensor,
    eps: float | Tensor,
    norm: Norm,
    *,
    x: Tensor | None = None,
    bounds: Bounds = None,
    pixels: bool = False,
) -> Tensor:
    """The Euclidean projection of each sample on the lp ball of radius eps around 0.

    u is the projection of v outside the ball iff ||u||_p = eps and <v - u, u> = eps * ||v - u||_q with
    1/p + 1/q = 1. Points inside keep their bits, so projecting twice is projecting once. For norm 0 the
    floor(eps) largest elements are kept, the first ones of equals.

    With `x` and `bounds` it is the projection on the intersection of the ball and the box: the nearest u with
    ||u||_p <= eps and lower <= x + u <= upper. For norm 0 those elements are kept that bring it closest.

    Args:
        delta: [B, ...]. A sample that is not finite has no projection: NaN for norms but 0 and inf. Norm inf
            leaves a NaN where it is; norm 0 makes it 0.
        eps: radius, or for norm 0 the number of elements (pixels) that are kept, rounded down; float or [B].
            In a tensor a negative one counts as 0, and a NaN makes its sample NaN.
        norm: 0, 1 <= norm <= inf, or "linf", "l2", "l1", "l0".
        x: like delta: what the deltas are added to, inside the bounds; together with `bounds`.
        bounds: (lower, upper) of every element of x + u.
        pixels: norm 0 only: keep whole pixels of [B, C, ...] samples, ranked by the sum over their channels;
            in [B, N] each element is a pixel.

    Returns:
        [B, ...] in the dtype and memory format of delta; differentiable in delta, eps and x.
    """
    norm = _checks.norm_value("project", norm)
    _checks.samples("project", "delta", delta)
    _checks.no_forward_mode("project", delta)
    if (x is None) != (bounds is None):
        raise ValueError("fastadv::project: x and bounds must come together")
    lower, upper = _checks.interval("project", bounds)
    _checks.pixels("project", norm, pixels)
    eps = per_sample("project", "eps", eps, delta)
    if is_native(delta):
        return torch.ops.fastadv.project.default(delta, eps, norm, x, lower, upper, pixels)
    _checks.scalar_or_per_sample("project", "eps", eps, delta)
    if x is not None:
        _checks.like("project", "x", x, "delta", delta)
    return in_format_of(delta, reference.project(delta, eps, norm, x=x, bounds=(lower, upper), pixels=pixels))


def steepest(grad: Tensor, norm: Norm) -> Tensor:
    """The direction of steepest ascent: argmax of <u, grad> over the unit lp ball.

    sign(grad) |grad|^(q - 1) / ||grad||_q^(q - 1) with 1/p + 1/q = 1, however small grad is: sign(grad) for
    norm inf, grad / ||grad||_2 for norm 2, and for norm 1 the sign of the largest element alone, the first
    of equals. 0 where grad is 0, and for a sample whose gradient is not finite (norm inf: where it is NaN).
    The survey's section 5, "steepest-descent PGD".

    Args:
        grad: [B, ...].
        norm: 1 <= norm <= inf, or "linf", "l2", "l1".

    Returns:
        [B, ...] in the dtype and memory format of grad; differentiable (with derivative 0 for norms 1 and
        inf).
    """
    norm = _checks.norm_value("steepest", norm, zero=False)
    _checks.samples("steepest", "grad", grad)
    _checks.no_forward_mode("steepest", grad)
    if is_native(grad):
        return torch.ops.fastadv.steepest.default(grad, norm)
    return in_format_of(grad, reference.steepest(grad, norm))


def random_in_ball(
    x: Tensor,
    eps: float | Tensor,
    norm: Norm = math.inf,
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
        eps: radius, in the units of x; float or [B]. In a tensor a negative one counts as 0, and a NaN makes
            its sample NaN.
        norm: 1 <= norm <= inf, or "linf", "l2", "l1".
        bounds: (lower, upper) of every element, or None.
        seed: a key in [0, 2^63), or (key, offset) as a tuple or an int64 tensor on x's device; the offset
            (below 2^32) numbers independent draws under one key.
        ids: [B] int64, the samples' numbers; default 0 .. B-1. Sample s under a seed always gets the
            same point.

    Returns:
        [B, ...] in the dtype and memory format of x. Never requires grad.
    """
    norm = _checks.norm_value("random_in_ball", norm, zero=False)
    _checks.samples("random_in_ball", "x", x)
    lower, upper = _checks.interval("random_in_ball", bounds)
    eps = per_sample("random_in_ball", "eps", eps, x)
    if not isinstance(seed, Tensor):
        seed = seed_tensor("random_in_ball", seed, x.device)
    if is_native(x):
        return torch.ops.fastadv.random_in_ball.default(x, eps, norm, lower, upper, seed, ids)
    _checks.scalar_or_per_sample("random_in_ball", "eps", eps, x)
    _checks.seed_tensor("random_in_ball", seed, x)
    if ids is not None:
        _checks.one_per_sample("random_in_ball", "ids", ids, x, torch.int64)
    return in_format_of(x, reference.random_in_ball(x, eps, norm, bounds=(lower, upper), seed=seed, ids=ids))


_StepArguments = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, float, float, float, bool, Tensor | None, int, bool
]  # those of the schema


def _step_arguments(
    op: str,
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: Norm,
    bounds: Bounds,
    rule: Rule,
    active: Tensor | None,
    spread: int,
    pixels: bool,
) -> _StepArguments:
    """The schema's arguments from the user's; the numbers among them are checked."""
    _checks.samples(op, "x_adv", x_adv)
    norm = _checks.norm_value(op, norm)
    lower, upper = _checks.interval(op, bounds)
    if rule not in ("steepest", "gradient"):
        raise ValueError(f"fastadv::{op}: rule must be 'steepest' or 'gradient', got {rule!r}")
    _checks.spread(op, norm, spread)
    _checks.pixels(op, norm, pixels)
    eps = per_sample(op, "eps", eps, x_adv)
    step_size = per_sample(op, "step_size", step_size, x_adv)
    return x_adv, x, grad, eps, step_size, norm, lower, upper, rule == "steepest", active, spread, pixels


def _reference_step(op: str, *args: *_StepArguments, **keep: Tensor | None) -> Tensor:
    """The reference on the schema's arguments, after the checks that the native kernel makes itself."""
    x_adv, x, grad, eps, step_size, norm, lower, upper, steepest_rule, active, spread, pixels = args
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
        spread=spread,
        pixels=pixels,
        **keep,
    )
