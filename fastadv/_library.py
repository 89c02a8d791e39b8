"""Loads the compiled kernels and registers what PyTorch must know about them.

`fastadv._C` holds the schemas and the CPU kernels, `fastadv._C_cuda` the CUDA kernels; either may be
absent. Fake kernels (shapes for torch.compile and export) and autograd rules are Python: they are the
same for every device.
"""

import json
import math
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv import _checks

BACKENDS = ("auto", "native", "reference")
_PACKAGE = Path(__file__).parent


def _load(stem: str) -> bool:
    """Load a compiled library of this package; False if it was not built. A broken one raises."""
    for path in sorted(_PACKAGE.glob(f"{stem}.*so")):
        torch.ops.load_library(path)
        return True
    return False


# Which devices have native kernels. The CUDA library links libtorch_cuda, so CPU builds of torch skip it.
_has_cpu = _load("_C")
_has_cuda = _has_cpu and torch.version.cuda is not None and _load("_C_cuda")
_native_devices = frozenset(["cpu"] * _has_cpu + ["cuda"] * _has_cuda)
_choice = "auto"


def backend(choice: str | None = None) -> str:
    """Choose between the native kernels and the PyTorch reference, for the whole process.

    Args:
        choice: "auto" (the kernels of a tensor's device where they were built, the reference elsewhere),
            "native" (an error where they were not), "reference", or None to change nothing. The
            environment variable FASTADV_BACKEND sets the choice at import.

    Returns:
        What CPU tensors get now: "native" or "reference".

    Raises:
        ValueError: the choice is none of these.
        RuntimeError: "native" was chosen but no kernels were built.
    """
    global _choice
    if choice is not None:
        if choice not in BACKENDS:
            raise ValueError(f"fastadv.backend: choice must be one of {', '.join(BACKENDS)}, got {choice!r}")
        if choice == "native" and not _has_cpu:
            raise RuntimeError(
                "fastadv.backend: native kernels were not built: reinstall with a C++ compiler, or use 'auto'"
            )
        _choice = choice
    return "native" if _choice != "reference" and _has_cpu else "reference"


def is_native(tensor: Tensor) -> bool:
    """Whether an operator on this tensor runs in a compiled kernel, by the choice in force."""
    if _choice == "reference":
        return False
    if tensor.device.type in _native_devices:
        return True
    if _choice == "native":
        raise RuntimeError(
            f"fastadv: no native kernels for {tensor.device.type} tensors: they were not built; "
            "use backend('auto') or 'reference'"
        )
    return False


def build_info() -> dict[str, str]:
    """What runs here, in the order in which `fastadv info` prints it."""
    from fastadv import __version__

    built = json.loads((_PACKAGE / "_build.json").read_text()) if (_PACKAGE / "_build.json").exists() else {}
    cuda = torch.cuda.is_available()
    return {
        "fastadv": __version__,
        "backend": f"{backend()} (choice: {_choice})",
        "kernels": ", ".join(sorted(_native_devices)) or "none built: PyTorch reference",
        "simd": torch.ops.fastadv._simd_level() if _has_cpu else "none",
        "cuda_archs": built.get("cuda_archs") or "none built",
        "torch": f"{torch.__version__}, intra-op threads: {torch.get_num_threads()}",
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
    }


def _fake_step(
    op: str,
    x_adv: Tensor,
    x: Tensor,
    grad: Tensor,
    eps: Tensor,
    step_size: Tensor,
    norm: float,
    lower: float,
    upper: float,
    steepest: bool = True,
    active: Tensor | None = None,
    best: Tensor | None = None,
    better: Tensor | None = None,
) -> Tensor:
    _checks.samples(op, "x_adv", x_adv)
    _checks.norm_value(op, norm)
    _checks.interval(op, (lower, upper))
    _checks.like(op, "x", x, "x_adv", x_adv)
    _checks.like(op, "grad", grad, "x_adv", x_adv)
    _checks.scalar_or_per_sample(op, "eps", eps, x_adv)
    _checks.scalar_or_per_sample(op, "step_size", step_size, x_adv)
    if active is not None:
        _checks.one_per_sample(op, "active", active, x_adv, torch.bool)
    _checks.kept(op, x_adv, best, better)
    return torch.empty_like(x_adv)


def _fake_project(delta: Tensor, eps: Tensor, norm: float) -> Tensor:
    _checks.samples("project", "delta", delta)
    _checks.norm_value("project", norm)
    _checks.scalar_or_per_sample("project", "eps", eps, delta)
    return torch.empty_like(delta)


def _fake_steepest(grad: Tensor, norm: float) -> Tensor:
    _checks.samples("steepest", "grad", grad)
    _checks.norm_value("steepest", norm)
    return torch.empty_like(grad)


def _fake_random_in_ball(
    x: Tensor, eps: Tensor, norm: float, lower: float, upper: float, seed: Tensor, ids: Tensor | None = None
) -> Tensor:
    _checks.samples("random_in_ball", "x", x)
    _checks.norm_value("random_in_ball", norm)
    _checks.interval("random_in_ball", (lower, upper))
    _checks.scalar_or_per_sample("random_in_ball", "eps", eps, x)
    _checks.seed_tensor("random_in_ball", seed, x)
    if ids is not None:
        _checks.one_per_sample("random_in_ball", "ids", ids, x, torch.int64)
    return torch.empty_like(x)


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


def _fake_add_noise(
    x: Tensor,
    draws: int,
    kind: str,
    scale: float,
    lower: float,
    upper: float,
    seed: Tensor,
    ids: Tensor | None = None,
    first_draw: int = 0,
) -> Tensor:
    _checks.samples("add_noise", "x", x)
    _checks.positive_count("add_noise", "draws", draws)
    _checks.noise_kind("add_noise", kind)
    _checks.interval("add_noise", (lower, upper))
    _checks.seed_tensor("add_noise", seed, x)
    if ids is not None:
        _checks.one_per_sample("add_noise", "ids", ids, x, torch.int64)
    return x.new_empty((draws, *x.shape))


def _fake_gap_moments(
    clean: Tensor, noisy: Tensor, sums: Tensor | None = None, squares: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    earlier = None if sums is None or squares is None else (sums, squares)
    _checks.logits_of_draws("gap_moments", clean, noisy, earlier)
    return clean.new_empty(clean.shape, dtype=torch.float64), clean.new_empty(
        clean.shape, dtype=torch.float64
    )


def _fake_odds_score(
    gaps: Tensor, predicted: Tensor, mean: Tensor, std: Tensor, two_sided: bool = False
) -> tuple[Tensor, Tensor]:
    _checks.gap_statistics("odds_score", gaps, predicted, mean, std)
    return gaps.new_empty(gaps.shape[1]), torch.empty_like(predicted)


def _per_row(products: Tensor, like: Tensor) -> Tensor:
    """Sum of each sample, shaped like `like`, which is [] or [B], and on its device."""
    sums = products.flatten(1).sum(1)
    return (sums.sum() if like.dim() == 0 else sums).to(like)


def _rows(value: Tensor, samples: Tensor) -> Tensor:
    """[] or [B] shaped to broadcast over the samples, on their device."""
    return value.to(samples.device).reshape(-1, *[1] * (samples.dim() - 1))


def _l2_norm(samples: Tensor) -> Tensor:
    return _rows(torch.linalg.vector_norm(samples.flatten(1), dim=1, dtype=torch.float64), samples)


def _project_setup(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    delta, eps, ctx.norm = inputs
    ctx.save_for_backward(delta, eps)


def _project_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
    """The derivative of the projection: that of clamp, or of eps * delta / ||delta|| outside the ball."""
    delta, eps = ctx.saved_tensors
    dtype = _checks.compute_dtype(delta.dtype)
    wide, upstream, radius = delta.to(dtype), grad.to(dtype), _rows(eps, delta)
    if ctx.norm == math.inf:
        outside = wide.abs() > radius
        normal = wide.sign()
        to_delta = torch.where(outside, 0, upstream)
    else:
        length = _l2_norm(wide)
        outside = length > radius
        length = torch.where(outside, length, 1)
        normal = (wide / length).to(dtype)
        along = normal * _rows((normal * upstream).flatten(1).sum(1), delta)
        to_delta = torch.where(outside, ((upstream - along) * (radius / length)).to(dtype), upstream)
    to_eps = _per_row(torch.where(outside, normal * upstream, 0), eps) if ctx.needs_input_grad[1] else None
    return to_delta.to(delta.dtype), to_eps, None


def _steepest_setup(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    grad, ctx.norm = inputs
    ctx.save_for_backward(grad)


def _steepest_backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
    """The derivative of sign (0) or of grad / ||grad||, and 0 where grad is 0."""
    (grad,) = ctx.saved_tensors
    if ctx.norm == math.inf:
        return torch.zeros_like(grad), None
    length = _l2_norm(grad.to(_checks.compute_dtype(grad.dtype)))
    length = torch.where(length > 0, length, math.inf)
    unit = grad.double() / length
    along = unit * _rows((unit * upstream).flatten(1).sum(1), grad)
    return ((upstream - along) / length).to(grad.dtype), None


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


def _add_noise_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, _, _, ctx.lower, ctx.upper, *_ = inputs
    ctx.save_for_backward(output)


def _add_noise_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Each copy moves with x, but for the elements that the box cut off."""
    (out,) = ctx.saved_tensors
    inside = (out > ctx.lower) & (out < ctx.upper)
    return torch.where(inside, grad, 0).sum(0), *[None] * 8


def _register() -> torch.library.Library:
    """Fake kernels and autograd rules of every operator; the registrations live as long as the result."""
    library = torch.library.Library("fastadv", "IMPL")
    fakes: dict[str, Callable[..., Any]] = {
        "pgd_step": partial(_fake_step, "pgd_step"),
        "pgd_step_": lambda *args, **kwargs: (_fake_step("pgd_step_", *args, **kwargs), None)[1],
        "project": _fake_project,
        "steepest": _fake_steepest,
        "random_in_ball": _fake_random_in_ball,
        "kwta": _fake_kwta,
        "kwta_backward": _fake_kwta_backward,
        "add_noise": _fake_add_noise,
        "gap_moments": _fake_gap_moments,
        "odds_score": _fake_odds_score,
    }
    for op, fake in fakes.items():
        torch.library.register_fake(f"fastadv::{op}", fake, lib=library)
    rules: tuple[tuple[str, Callable[..., Any], Callable[..., None] | None], ...] = (
        ("project", _project_backward, _project_setup),
        ("steepest", _steepest_backward, _steepest_setup),
        ("kwta", _kwta_backward, _kwta_setup),
        ("kwta_backward", _refuse_double_backward, None),
        ("add_noise", _add_noise_backward, _add_noise_setup),
    )
    for op, backward, setup in rules:
        torch.library.register_autograd(f"fastadv::{op}", backward, setup_context=setup, lib=library)
    # An update of an attack is a constant to autograd, like the index of a maximum: an attack is not
    # differentiated through, and nor are statistics. Falling through costs nothing, and the result does not
    # require grad.
    for op in ("pgd_step", "pgd_step_", "random_in_ball", "gap_moments", "odds_score"):
        library.impl(op, torch.library.fallthrough_kernel, "Autograd")
    return library


if _has_cpu:
    _registrations = _register()
backend(os.environ.get("FASTADV_BACKEND") or None)
