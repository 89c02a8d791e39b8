"""What all attacks share: their interface, their result, and the care they take of the user's objects."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastadv._checks import (
    Bounds,
    Norm,
    compute_dtype,
    is_integer,
    is_interval,
    is_real,
    norm_error,
    norm_number,
    norm_value,
)
from fastadv.attacks.gradients import Estimator, Forward
from fastadv.reference import lp_norm

Model = Callable[[Tensor], Tensor]
OnStep = Callable[[int, int], None]


class AttackResult(NamedTuple):
    """What an attack found, sample by sample.

    Attributes:
        x_adv: [B, ...] in the dtype and memory format of x, inside ball and box.
        success: [B] bool: x_adv is misclassified (classified as the target).
        distance: [B] float64: the lp norm of x_adv - x, in the attack's norm; for norm 0 the number of
            elements (pixels) that differ.
        loss: [B] float: the attack's loss at x_adv.
        queries: [B] int64: how often the model was evaluated on the sample, moved and transformed copies
            included.
    """

    x_adv: Tensor
    success: Tensor
    distance: Tensor
    loss: Tensor
    queries: Tensor


@dataclass
class Problem:
    """A validated batch to attack, or the samples of it that are still in work.

    Attributes:
        x: [B, ...] clean samples.
        y: [B] int64 labels, or None until the model's prediction is known.
        target: [B] int64 or None.
        ids: [B] int64, the samples' numbers in random draws.
        rows: [B] int64, the samples' positions in the user's batch.
    """

    x: Tensor
    y: Tensor | None
    target: Tensor | None
    ids: Tensor
    rows: Tensor

    def __getitem__(self, index: slice | Tensor) -> "Problem":
        """The samples at `index` as a problem of their own."""
        return Problem(
            x=self.x[index],
            y=None if self.y is None else self.y[index],
            target=None if self.target is None else self.target[index],
            ids=self.ids[index],
            rows=self.rows[index],
        )

    def of(self, value: float | Tensor) -> float | Tensor:
        """A user's number, or one number per sample of the user's batch, for these samples."""
        return value[self.rows] if isinstance(value, Tensor) and value.dim() == 1 else value

    def solved_by(self, logits: Tensor) -> Tensor:
        """[B] bool: misclassified, or classified as the target; never where a logit is not finite."""
        predicted = logits.argmax(1)
        solved = predicted != self.y if self.target is None else predicted == self.target
        return solved & logits.isfinite().all(1)


def pose(
    attack: str,
    x: Tensor,
    y: Tensor | None,
    target: Tensor | int | None,
    ids: Tensor | None,
    bounds: Bounds,
    **per_sample: object,
) -> Problem:
    """Check an attack's arguments, once, before any work; `attack` names it in errors.

    `per_sample` are the attack's fields that may hold one number per sample.

    Raises:
        TypeError: wrong dtypes.
        ValueError: wrong shapes or devices, x not finite or outside bounds, negative eps or step size.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{attack}: x must be a floating-point tensor, got {got}")
    if x.dim() < 2:
        raise ValueError(f"{attack}: x must be a batch [B, ...], got shape {list(x.shape)}")
    if x.numel() > 0:
        low, high = x.aminmax()  # NaN if there is one
        if not (low.isfinite() and high.isfinite()):
            raise ValueError(f"{attack}: x must be finite, got NaN or infinity")
        # Compared in x's own dtype: 0.1 in bfloat16 is inside (0, 0.1).
        if bounds is not None and (low < low.new_tensor(bounds[0]) or high > high.new_tensor(bounds[1])):
            raise ValueError(
                f"{attack}: x must lie within bounds {bounds}, got [{low.item():.6g}, {high.item():.6g}]"
            )
    if is_integer(target):
        target = torch.full((len(x),), int(target), device=x.device)
    for name, labels in (("y", y), ("target", target), ("ids", ids)):
        if labels is None:
            continue
        if not isinstance(labels, Tensor):
            raise TypeError(f"{attack}: {name} must be an int64 tensor, got {type(labels).__name__}")
        if labels.dtype != torch.int64:
            raise TypeError(f"{attack}: {name} must be int64, got {labels.dtype}")
        if labels.shape != x.shape[:1]:
            raise ValueError(f"{attack}: {name} must have shape [{len(x)}], got {list(labels.shape)}")
        if labels.device != x.device:
            raise ValueError(f"{attack}: {name} must be on x's device, {x.device}, got {labels.device}")
    assert not isinstance(target, int)
    for name, value in per_sample.items():
        if isinstance(value, Tensor):
            if value.dim() > 0 and value.shape != x.shape[:1]:
                raise ValueError(
                    f"{attack}: {name} must be a number or have shape [{len(x)}], got {list(value.shape)}"
                )
            if value.device != x.device:
                raise ValueError(f"{attack}: {name} must be on x's device, {x.device}, got {value.device}")
            check_lengths(attack, name, value)
    rows = torch.arange(len(x), device=x.device)
    return Problem(
        x=_usable(x.detach()),
        y=None if y is None else _usable(y),
        target=None if target is None else _usable(target),
        ids=rows if ids is None else ids,
        rows=rows,
    )


def _usable(tensor: Tensor) -> Tensor:
    """A tensor that autograd may save: the clone of one that was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def check_labels(attack: str, rows: int, whole: Problem, logits: Tensor) -> None:
    """Check the first logits, those of `rows` samples, and against them the labels of the whole batch.

    Raises:
        ValueError: logits not [B, K] with K >= 2 or not finite, or a label that is not a class.
    """
    if logits.dim() != 2 or len(logits) != rows or logits.shape[1] < 2:
        raise ValueError(
            f"{attack}: model must return logits [{rows}, K] with K >= 2, got {list(logits.shape)}"
        )
    if not logits.isfinite().all():
        raise ValueError(f"{attack}: model returned NaN or infinite logits for the samples it was given")
    for name, labels in (("y", whole.y), ("target", whole.target)):
        if labels is not None and not ((labels >= 0) & (labels < logits.shape[1])).all():
            raise ValueError(
                f"{attack}: {name} must be classes 0 .. {logits.shape[1] - 1}, "
                f"got {labels.min().item()} .. {labels.max().item()}"
            )


def forward(attack: str, model: Model, autocast: torch.dtype | None) -> Forward:
    """The model with its logits in float32 (or float64), run under autocast if a dtype is given.

    What it returns raises TypeError where the model gives no tensor, ValueError where it changes its input.
    """

    def run(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, autocast) if autocast else contextlib.nullcontext():
            version = x._version
            logits = model(x)
        if x._version != version:
            raise ValueError(
                f"{attack}: model must not change its input in place: work on a copy in its forward"
            )
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"{attack}: model must return a tensor of logits [B, K], got {type(logits).__name__}"
            )
        return logits if logits.dtype == torch.float64 else logits.float()

    return run


@contextlib.contextmanager
def undisturbed(model: Model) -> Iterator[None]:
    """Gradients on, every submodule in eval mode, and each one's own mode restored afterwards.

    In eval mode BatchNorm uses and keeps its statistics and dropout is off, so the attack meets the
    network that will be deployed, and its result does not depend on batch mates.
    """
    training = (
        [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    )
    try:
        for module in training:
            module.training = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module in training:
            module.training = True


def distances(x_adv: Tensor, x: Tensor, norm: Norm, pixels: bool = False) -> Tensor:
    """[B] float64: the lp norm of x_adv - x, the difference taken in the compute dtype.

    For norm 0 it is the number of elements that differ, or of pixels of [B, C, ...] samples; a vector's
    elements are pixels.
    """
    dtype = compute_dtype(x.dtype)
    delta = x_adv.to(dtype) - x.to(dtype)
    p = norm_value("distances", norm)
    if p == 0:
        changed = (delta != 0).any(1, keepdim=True) if pixels and x.dim() > 2 else delta != 0
        return changed.flatten(1).sum(1).double()
    return lp_norm(delta, p).flatten().double()


def check_length(attack: str, name: str, value: object) -> None:
    """Check a radius or step size; tensors wait for `pose`. Raises TypeError and ValueError."""
    if isinstance(value, Tensor):
        return
    if not is_real(value):
        raise TypeError(f"{attack}: {name} must be a number or a tensor, got {value!r}")
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"{attack}: {name} must be finite and at least 0, got {value}")


def check_lengths(attack: str, name: str, values: Tensor) -> None:
    """Check the radii or step sizes of a tensor. Raises ValueError."""
    wrong = values[(values < 0) | ~values.isfinite()]
    if len(wrong) > 0:
        raise ValueError(f"{attack}: {name} must be finite and at least 0, got {wrong[0].item()}")


def check_fraction(attack: str, name: str, value: object) -> None:
    """Check a number in [0, 1]. Raises ValueError."""
    if not is_real(value) or not 0 <= float(value) <= 1:
        raise ValueError(f"{attack}: {name} must be a number in [0, 1], got {value!r}")


def refuse_class(name: str, field: str, value: object) -> None:
    """Raise TypeError for a class in place of an instance, which would pass as a callable."""
    if isinstance(value, type):
        kind = value.__name__
        raise TypeError(f"{name}: {field} must be an instance, got the class {kind}: write {kind}(...)")


def check_fields(
    attack: str, eps: float | Tensor, norm: Norm, bounds: Bounds, autocast: torch.dtype | None
) -> None:
    """Check the fields that attacks share; `attack` names it in errors. Raises ValueError."""
    check_length(attack, "eps", eps)
    if norm_number(norm) is None:
        raise ValueError(f"{attack}: {norm_error(norm)}")
    if norm_number(norm) == 0 and not isinstance(eps, Tensor) and eps != math.floor(eps):
        raise ValueError(f"{attack}: eps counts elements for norm 0 and must be a whole number, got {eps}")
    check_surroundings(attack, bounds, autocast)


def check_surroundings(attack: str, bounds: Bounds, autocast: torch.dtype | None) -> None:
    """Check the box and the precision of the model; `attack` names them in errors. Raises ValueError."""
    if bounds is not None and not is_interval(bounds):
        raise ValueError(f"{attack}: bounds must be (lower, upper) with lower < upper, got {bounds!r}")
    if autocast not in (None, torch.float16, torch.bfloat16):
        raise ValueError(f"{attack}: autocast must be torch.float16, torch.bfloat16 or None, got {autocast}")


def check_counts(name: str, **counts: int | None) -> None:
    """Check that these fields are integers of at least 1, or None. Raises ValueError."""
    for field, value in counts.items():
        if value is not None and (not is_integer(value) or value < 1):
            raise ValueError(f"{name}: {field} must be an integer of at least 1, got {value!r}")


def check_gradient(name: str, gradient: object) -> None:
    """Check the source of gradients. Raises TypeError."""
    refuse_class(name, "gradient", gradient)
    if not callable(gradient) and not isinstance(gradient, Estimator):
        raise TypeError(f"{name}: gradient must be a Gradient such as Autograd(), got {gradient!r}")


def check_seed(name: str, seed: object) -> None:
    """Check a seed of random numbers. Raises ValueError."""
    if isinstance(seed, torch.Generator) or (is_integer(seed) and 0 <= int(seed) < 2**63):
        return
    raise ValueError(f"{name}: seed must be an int in [0, 2^63) or a Generator, got {seed!r}")


def key_of(seed: int | torch.Generator) -> int:
    """The key of a call's random numbers: the seed itself, or one drawn from the generator."""
    if isinstance(seed, torch.Generator):
        return int(torch.randint(2**63 - 1, (), generator=seed, device=seed.device))
    return int(seed)


def nothing_found(problem: Problem) -> AttackResult:
    """The result before any work: every sample as it is, no success, no queries."""
    x = problem.x
    return AttackResult(
        x_adv=x.clone(),
        success=torch.zeros(len(x), dtype=torch.bool, device=x.device),
        distance=torch.zeros(len(x), dtype=torch.float64, device=x.device),
        loss=torch.zeros(len(x), dtype=compute_dtype(x.dtype), device=x.device),
        queries=torch.zeros(len(x), dtype=torch.int64, device=x.device),
    )


@dataclass
class Progress:
    """Counts the steps of all chunks."""

    on_step: OnStep | None
    chunk: int
    chunks: int
    steps: int

    def __call__(self, done: int) -> None:
        """Report that so many steps of this chunk are done."""
        if self.on_step is not None:
            self.on_step(self.chunk * self.steps + done, self.chunks * self.steps)


def per_row(flags: Tensor, like: Tensor) -> Tensor:
    """[B] shaped to broadcast over the rest of `like`."""
    return flags.reshape(-1, *[1] * (like.dim() - 1))
