"""The checks of operator arguments, shared by the wrappers, the reference and the fake kernels.

They look at shapes, dtypes, devices and Python numbers only: nothing here waits for a GPU. The native
kernels check again in C++ (csrc/bindings/) for those who call them directly.
"""

import math
from numbers import Integral, Real
from typing import Literal, TypeGuard

import torch
from torch import Tensor
from torch.autograd import forward_ad

Bounds = tuple[float, float] | None

NOISE_KINDS = ("normal", "uniform", "sign")
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether it is an integer; True and False, which Python counts among them, are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: object) -> TypeGuard[float]:
    """Whether it is a number; True and False, which Python counts among them, are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which an operator computes: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def samples(op: str, name: str, tensor: Tensor) -> None:
    """Refuse what is not a batch of floating-point samples."""
    if tensor.dim() < 1:
        raise RuntimeError(f"fastadv::{op}: {name} must have a batch dimension, got a scalar")
    if tensor.dtype not in FLOATING:
        raise RuntimeError(
            f"fastadv::{op}: {name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}"
        )


def like(op: str, name: str, tensor: Tensor, model_name: str, model: Tensor) -> None:
    """Refuse a tensor that differs from `model` in shape, dtype or device."""
    if tensor.shape != model.shape:
        raise RuntimeError(
            f"fastadv::{op}: {name} must have the shape of {model_name}, {list(model.shape)}, "
            f"got {list(tensor.shape)}"
        )
    if tensor.dtype != model.dtype:
        raise RuntimeError(
            f"fastadv::{op}: {name} must have the dtype of {model_name}, {model.dtype}, got {tensor.dtype}"
        )
    if tensor.device != model.device:
        raise RuntimeError(
            f"fastadv::{op}: {name} must be on the device of {model_name}, {model.device}, "
            f"got {tensor.device}"
        )


def one_per_sample(op: str, name: str, tensor: Tensor, batch: Tensor, dtype: torch.dtype) -> None:
    """Refuse a tensor that is not [B] of this dtype on the samples' device."""
    if tensor.shape != batch.shape[:1]:
        raise RuntimeError(
            f"fastadv::{op}: {name} must have shape [{batch.shape[0]}], got {list(tensor.shape)}"
        )
    if tensor.dtype != dtype:
        raise RuntimeError(f"fastadv::{op}: {name} must be {dtype}, got {tensor.dtype}")
    if tensor.device != batch.device:
        raise RuntimeError(f"fastadv::{op}: {name} must be on the samples' device, {batch.device}")


def kept(op: str, x_adv: Tensor, best: Tensor | None = None, better: Tensor | None = None) -> None:
    """Refuse a place for the best iterates that does not fit, or comes without its flags."""
    if (best is None) != (better is None):
        raise RuntimeError(f"fastadv::{op}: best and better must come together")
    if best is not None and better is not None:
        like(op, "best", best, "x_adv", x_adv)
        one_per_sample(op, "better", better, x_adv, torch.bool)


def scalar_or_per_sample(op: str, name: str, tensor: Tensor, batch: Tensor) -> None:
    """Refuse what is not [] (on the CPU or the samples' device) or [B], in the compute dtype."""
    expected = compute_dtype(batch.dtype)
    if tensor.dtype != expected:
        raise RuntimeError(f"fastadv::{op}: {name} must be {expected}, got {tensor.dtype}")
    if tensor.dim() == 0 and tensor.device.type == "cpu":
        return
    if tensor.device != batch.device:
        raise RuntimeError(f"fastadv::{op}: {name} must be on the samples' device, {batch.device}")
    if tensor.dim() != 0 and tensor.shape != batch.shape[:1]:
        raise RuntimeError(
            f"fastadv::{op}: {name} must have shape [] or [{batch.shape[0]}], got {list(tensor.shape)}"
        )


def seed_tensor(op: str, tensor: Tensor, batch: Tensor) -> None:
    """Refuse a seed that is not int64 (key, offset) on the samples' device."""
    if tensor.shape != (2,) or tensor.dtype != torch.int64:
        raise RuntimeError(
            f"fastadv::{op}: seed must be int64 of shape [2] (key, offset), "
            f"got {tensor.dtype} of shape {list(tensor.shape)}"
        )
    if tensor.device != batch.device:
        raise RuntimeError(f"fastadv::{op}: seed must be on the samples' device, {batch.device}")


def no_forward_mode(op: str, tensor: Tensor) -> None:
    """Refuse forward-mode differentiation, which the operators would answer with a derivative of 0."""
    if not torch.compiler.is_compiling() and forward_ad.unpack_dual(tensor).tangent is not None:
        raise RuntimeError(f"fastadv::{op}: forward-mode derivatives (jvp) are not supported: use backward")


Norm = float | Literal["linf", "l2", "l1", "l0"]

NORM_NAMES = {"linf": math.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}


# From here on a norm counts as inf: ||v||_p <= ||v||_inf N^(1/p), which is 1 to 2^-49 for any N.
AS_LINF = 2.0**55


def norm_number(norm: object) -> float | None:
    """The p that a user's norm means, 0, at least 1 or inf; None where it means none."""
    if isinstance(norm, str):
        return NORM_NAMES.get(norm)
    if not is_real(norm):
        return None
    number = float(norm)
    if number >= AS_LINF:
        return math.inf
    return number if number == 0 or number >= 1 else None


def norm_error(norm: object, *, zero: bool = True) -> str:
    """What is wrong with a norm, after the name of who refuses it."""
    least, last = ("0, at least 1", ", 'l0'") if zero else ("at least 1", "")
    return f"norm must be {least}, inf, or one of 'linf', 'l2', 'l1'{last}, got {norm!r}"


def norm_value(op: str, norm: object, *, zero: bool = True) -> float:
    """The norm as a float: 0 where `zero` is allowed, or 1 to inf; refuses everything else."""
    number = norm_number(norm)
    if number is None or (number == 0 and not zero):
        raise ValueError(f"fastadv::{op}: {norm_error(norm, zero=zero)}")
    return number


def spread(op: str, norm: float, count: int) -> None:
    """Refuse a spread that is not an integer of at least 1, or is given for another norm than 1."""
    positive_count(op, "spread", count)
    if count != 1 and norm != 1:
        raise ValueError(f"fastadv::{op}: spread is for norm 1, got norm {norm:g} and spread {count}")


def pixels(op: str, norm: float, wanted: bool) -> None:
    """Refuse to count pixels for another norm than 0."""
    if wanted and norm != 0:
        raise ValueError(f"fastadv::{op}: pixels is for norm 0, got norm {norm:g}")


def non_negative(op: str, name: str, value: float) -> float:
    """The number as a float; refuses negative numbers and NaN."""
    if not is_real(value):
        raise TypeError(f"fastadv::{op}: {name} must be a number or a tensor, got {value!r}")
    if not value >= 0:
        raise ValueError(f"fastadv::{op}: {name} must be at least 0, got {value}")
    return float(value)


def stretch(op: str, value: float) -> float:
    """How far tanh is drawn out, as a float."""
    if non_negative(op, "stretch", value) == math.inf:
        raise ValueError(f"fastadv::{op}: stretch must be finite, got {value}")
    return float(value)


def is_interval(bounds: object) -> bool:
    """Whether these are two numbers in order."""
    return (
        isinstance(bounds, tuple | list)
        and len(bounds) == 2
        and all(is_real(end) or isinstance(end, torch.SymFloat) for end in bounds)
        and bool(bounds[0] < bounds[1])
    )


def interval(op: str, bounds: Bounds) -> tuple[float, float]:
    """(lower, upper), infinite where bounds is None; refuses an empty interval."""
    if bounds is None:
        return -math.inf, math.inf
    if not is_interval(bounds):
        raise ValueError(f"fastadv::{op}: bounds must be (lower, upper) with lower < upper, got {bounds!r}")
    return float(bounds[0]), float(bounds[1])


def finite_interval(op: str, bounds: tuple[float, float]) -> tuple[float, float]:
    """(lower, upper); refuses an empty interval and infinite ends, which tanh space cannot reach."""
    lower, upper = interval(op, bounds)
    if not (math.isfinite(lower) and math.isfinite(upper)):
        raise ValueError(f"fastadv::{op}: bounds must be finite, got {bounds}")
    return lower, upper


def cw_state(
    x_adv: Tensor,
    w: Tensor,
    m: Tensor,
    v: Tensor,
    x: Tensor,
    grad: Tensor,
    per_sample: tuple[Tensor, Tensor, Tensor | None],
    active: Tensor | None,
    best: Tensor | None,
    better: Tensor | None,
) -> None:
    """Refuse tensors of a search in tanh space that do not fit together; `per_sample` is (c, weight, tau)."""
    op = "cw_step_"
    samples(op, "x_adv", x_adv)
    like(op, "x", x, "x_adv", x_adv)
    like(op, "grad", grad, "x_adv", x_adv)
    wide = (
        x_adv if x_adv.dtype == compute_dtype(x_adv.dtype) else torch.empty_like(x_adv, dtype=torch.float32)
    )
    for name, state in (("w", w), ("m", m), ("v", v)):
        if state.dtype != wide.dtype:
            raise RuntimeError(f"fastadv::{op}: {name} must be {wide.dtype}, got {state.dtype}")
        like(op, name, state, "x_adv", wide)
    for name, value in zip(("c", "weight", "tau"), per_sample, strict=True):
        if value is not None:
            scalar_or_per_sample(op, name, value, x_adv)
    if active is not None:
        one_per_sample(op, "active", active, x_adv, torch.bool)
    kept(op, x_adv, best, better)


ROW_DIMS = {"sample": 1, "channel": 2, "last": -1}  # where a row begins
NO_DOUBLE_BACKWARD = (
    "fastadv::kwta: differentiable once only: its second derivative is zero wherever it exists, so there is "
    "nothing to optimise through it; drop create_graph=True, or use backward='straight_through'"
)


def winner_rows(op: str, name: str, tensor: Tensor, per: str, ties: str) -> tuple[int, int, int]:
    """What competes for winners: (first dimension of a row, number of rows, elements in a row)."""
    if per not in ROW_DIMS:
        raise ValueError(f"fastadv::{op}: per must be 'sample', 'channel' or 'last', got {per!r}")
    if ties not in ("all", "lowest_index"):
        raise ValueError(f"fastadv::{op}: ties must be 'all' or 'lowest_index', got {ties!r}")
    first = tensor.dim() - 1 if per == "last" else ROW_DIMS[per]
    if not 0 <= first < tensor.dim():
        raise RuntimeError(
            f"fastadv::{op}: {name} must have at least {max(first, 0) + 1} dimensions for per={per!r}, "
            f"got shape {list(tensor.shape)}"
        )
    return first, math.prod(tensor.shape[:first]), math.prod(tensor.shape[first:])


def winner_count(op: str, k: int, cols: int) -> None:
    """Refuse a number of winners that is not 1 .. the length of a row."""
    if not (is_integer(k) or isinstance(k, torch.SymInt)):
        raise TypeError(f"fastadv::{op}: k must be an integer, got {k!r}")
    if not 1 <= k <= cols:
        raise ValueError(f"fastadv::{op}: k must be 1 .. {cols}, the length of a row, got {k}")


def winners_of(op: str, winners: Tensor, grad: Tensor, per: str, ties: str) -> None:
    """Refuse bits that are not those of this gradient's rows."""
    _, rows, cols = winner_rows(op, "grad", grad, per, ties)
    shape = (rows, (cols + 31) // 32)
    if winners.dtype != torch.int32 or winners.shape != shape:
        raise RuntimeError(
            f"fastadv::{op}: winners must be contiguous int32 of shape {list(shape)}, "
            f"got {winners.dtype} of shape {list(winners.shape)}"
        )


def positive_count(op: str, name: str, value: int, least: int = 1, most: int = 2**63 - 1) -> None:
    """Refuse what is not an integer in least .. most."""
    if not (is_integer(value) or isinstance(value, torch.SymInt)):
        raise TypeError(f"fastadv::{op}: {name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"fastadv::{op}: {name} must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"fastadv::{op}: {name} must be at most {most}, got {value}")


def noise_kind(op: str, kind: str) -> None:
    """Refuse kinds of noise that there are not."""
    if kind not in NOISE_KINDS:
        raise ValueError(f"fastadv::{op}: kind must be 'normal', 'uniform' or 'sign', got {kind!r}")


def logits_of_draws(op: str, clean: Tensor, noisy: Tensor, sums: tuple[Tensor, Tensor] | None) -> None:
    """Refuse logits that are not [B, K] and [draws, B, K] of one dtype and device, and sums unlike [B, K]."""
    if clean.dim() != 2 or clean.shape[1] < 2:
        raise RuntimeError(
            f"fastadv::{op}: clean_logits must be [B, K] with K >= 2, got shape {list(clean.shape)}"
        )
    samples(op, "clean_logits", clean)
    if noisy.dim() != 3 or noisy.shape[1:] != clean.shape:
        wanted = ", ".join(map(str, clean.shape))
        raise RuntimeError(
            f"fastadv::{op}: noisy_logits must have shape [draws, {wanted}], got {list(noisy.shape)}"
        )
    if (noisy.dtype, noisy.device) != (clean.dtype, clean.device):
        raise RuntimeError(f"fastadv::{op}: noisy_logits must have the dtype and device of clean_logits")
    for earlier in sums or ():
        if (earlier.shape, earlier.dtype, earlier.device) != (clean.shape, torch.float64, clean.device):
            raise RuntimeError(
                f"fastadv::{op}: earlier sums must be float64 {list(clean.shape)} on clean_logits' device"
            )


def gap_statistics(op: str, gaps: Tensor, predicted: Tensor, mean: Tensor, std: Tensor) -> None:
    """Refuse gaps that are not [kinds, B, K], predicted not [B], mean and std not [kinds, K, K]."""
    if gaps.dim() != 3 or gaps.shape[0] < 1 or gaps.shape[2] < 2:
        raise RuntimeError(f"fastadv::{op}: gaps must be [kinds, B, K] with K >= 2, got {list(gaps.shape)}")
    kinds, rows, classes = gaps.shape
    shapes = {"predicted": (rows,), "mean": (kinds, classes, classes), "std": (kinds, classes, classes)}
    for name, value in (("gaps", gaps), ("predicted", predicted), ("mean", mean), ("std", std)):
        dtype = torch.int64 if name == "predicted" else torch.float64
        if value.dtype != dtype:
            raise RuntimeError(f"fastadv::{op}: {name} must be {dtype}, got {value.dtype}")
        if value.shape != shapes.get(name, gaps.shape):
            raise RuntimeError(
                f"fastadv::{op}: {name} must have shape {list(shapes[name])}, got {list(value.shape)}"
            )
        if value.device != gaps.device:
            raise RuntimeError(f"fastadv::{op}: {name} must be on the device of gaps, {gaps.device}")
