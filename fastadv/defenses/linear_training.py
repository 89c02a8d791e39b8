"""Minimising the robust loss of a linear classifier: the outer half of the survey's section 4."""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from fastadv.attacks.attack import check_counts, check_length, check_seed, key_of
from fastadv.defenses.linear import check_norm, robust_loss

OnStep = Callable[[int, int], None]

SMOOTHING = (0.1, 0.01, 0.001, 0.0001)
"""How strongly the norm is smoothed, stage by stage, for features scaled to [-1, 1]."""

FLAT = 1e-3
"""The largest element of the gradient, for features scaled to [-1, 1], at which a search has not failed."""


def fit_lbfgs(
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: float = math.inf,
    classes: int | None = None,
    l2: float = 0.0,
    max_iter: int = 300,
    tol: float = 1e-7,
    on_step: OnStep = lambda step, steps: None,
) -> tuple[Tensor, Tensor]:
    """The (w, b) of the least mean `robust_loss`, by L-BFGS with a strong Wolfe line search on all samples.

    The problem is convex, so a search that ends where the gradient vanishes has found the global minimum, up
    to its precision; one that ends elsewhere warns. ||w||_q has kinks for p = 1 and inf (and sharp bends
    near them) at which such a search gets stuck; so it is smoothed, less and less, each stage beginning where
    the last one ended. The search runs on features that are centred and scaled to [-1, 1], each by itself
    (one that varies by less than eps or sqrt(l2) by that), ball and penalty left in the units of x.

    Args:
        x: [N, D] samples, float64 if it is to be precise.
        y: [N] labels: -1 and +1 where `classes` is None, else int64 0 .. classes - 1.
        eps: radius of the ball in the units of x, >= 0; 0 is natural training, of which the weights grow
            without end where the classes can be separated, until `tol` stops them.
        norm: p of the ball, in [1, inf].
        classes: K for weights [K, D]; None for two classes with weights [D].
        l2: weight of ||w||_2^2 / 2 beside the mean loss, >= 0.
        max_iter: iterations of each stage, of which there are four, and one where eps is 0; at least 1.
        tol: a stage ends where no element of the gradient, for the scaled features, is larger.
        on_step: called with (stages done, all stages).

    Returns:
        w, b: [D] and [], or [K, D] and [K], in the dtype and on the device of x.

    Raises:
        TypeError, ValueError: a number is out of range, or x and y do not fit together.
        ValueError: the weights overflow, because the samples differ too little.
    """
    v, shift = _start("fit_lbfgs", x, classes)
    _check("fit_lbfgs", eps, norm, l2, max_iter=max_iter)
    middle = x.mean(0)
    centred = x - middle
    scale = centred.abs().amax(0).clamp(min=max(eps, math.sqrt(l2)))
    scale = torch.where(scale > 0, scale, 1)
    # Lengths are in this unit, which keeps powers of w in range; widths are then in (0, 1].
    unit = scale.max()
    widths, samples = scale / unit, centred / unit
    radius = torch.full_like(unit, eps) / unit  # a number would be multiplied by 1 / unit, which can overflow
    stages = SMOOTHING if eps > 0 else SMOOTHING[-1:]  # without a ball there is no norm to smooth
    for stage, smoothing in enumerate(stages, start=1):
        # For p = 1 the dual norm is a maximum, which a large q approaches without its ridges.
        bent = max(norm, 1 + smoothing / 4)

        def objective(smoothing: float = smoothing, bent: float = bent) -> Tensor:
            w = v / widths
            losses = robust_loss(w, shift, samples, y, radius, bent, smoothing=smoothing / widths)
            return losses.mean() + (math.sqrt(l2 / 2) / unit * w).square().sum()

        steepness = _lbfgs(objective, (v, shift), max_iter, tol)
        on_step(stage, len(stages))
    w = v.detach() / scale
    if not w.isfinite().all():
        raise ValueError(
            f"fit_lbfgs: the weights are no longer finite: x varies by {scale.min().item():.1e} only: "
            "scale x up"
        )
    if not steepness <= max(FLAT, tol):
        warnings.warn(
            f"fit_lbfgs: the search ended where the gradient is {steepness:.1e}, short of the minimum: raise "
            f"max_iter (now {max_iter}), or standardise the columns of x",
            RuntimeWarning,
            stacklevel=2,
        )
    return w, shift.detach() - w @ middle


def fit_sgd(
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: float = math.inf,
    classes: int | None = None,
    l2: float = 0.0,
    epochs: int = 20,
    learning_rate: float = 0.1,
    batch_size: int = 100,
    seed: int | torch.Generator = 0,
    on_step: OnStep = lambda step, steps: None,
) -> tuple[Tensor, Tensor]:
    """(w, b) after stochastic gradient descent on the `robust_loss`, from 0, with a constant learning rate.

    The survey's last formula of section 4; with batches of 100 as in Kolter and Madry's tutorial, whose other
    settings are 10 epochs at a learning rate of 1 (eps 0) and 20 epochs at 0.1 (eps 0.2).

    Args:
        x: [N, D] samples.
        y: [N] labels: -1 and +1 where `classes` is None, else int64 0 .. classes - 1.
        eps: radius of the ball in the units of x, >= 0; 0 is natural training.
        norm: p of the ball, in [1, inf].
        classes: K for weights [K, D]; None for two classes with weights [D].
        l2: weight of ||w||_2^2 / 2 beside the mean loss, >= 0.
        epochs: passes over the samples, at least 1.
        learning_rate: positive.
        batch_size: samples per update; the last batch of an epoch may be smaller.
        seed: of the batches: an int in [0, 2^63), or a torch.Generator; the global generator is not used.
        on_step: called with (updates done, all updates).

    Returns:
        w, b: [D] and [], or [K, D] and [K], in the dtype and on the device of x.

    Raises:
        TypeError, ValueError: a number is out of range, or x and y do not fit together.
        ValueError: the weights overflow, because learning_rate is too high for x.
    """
    w, b = _start("fit_sgd", x, classes)
    _check("fit_sgd", eps, norm, l2, epochs=epochs, batch_size=batch_size)
    check_length("fit_sgd", "learning_rate", learning_rate)
    check_seed("fit_sgd", seed)
    optimizer = torch.optim.SGD((w, b), learning_rate)
    generator = torch.Generator().manual_seed(key_of(seed))
    steps, step = epochs * math.ceil(len(x) / batch_size), 0
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).to(x.device).split(batch_size):
            optimizer.zero_grad()
            losses = robust_loss(w, b, x[batch], y[batch], eps, norm)
            (losses.mean() + l2 / 2 * w.square().sum()).backward()
            optimizer.step()
            step += 1
            on_step(step, steps)
        if not (w.isfinite().all() and b.isfinite().all()):
            raise ValueError(
                f"fit_sgd: the weights are no longer finite after {step} of {steps} updates: lower "
                f"learning_rate, got {learning_rate}, or scale x down"
            )
    return w.detach(), b.detach()


def _lbfgs(
    objective: Callable[[], Tensor], parameters: tuple[Tensor, ...], max_iter: int, tol: float
) -> float:
    """Minimise in place. Returns the largest element of the gradient where it ends."""
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=max_iter,
        max_eval=2 * max_iter,
        history_size=20,
        tolerance_grad=tol,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    closure()
    return max(p.grad.abs().max().item() for p in parameters if p.grad is not None)


def _start(name: str, x: Tensor, classes: int | None) -> tuple[Tensor, Tensor]:
    if x.dim() != 2 or len(x) == 0 or not x.is_floating_point() or not x.isfinite().all():
        raise ValueError(
            f"{name}: x must be finite floating-point samples [N, D] with N >= 1, "
            f"got {x.dtype} of shape {list(x.shape)}"
        )
    if classes is not None and classes < 2:
        raise ValueError(f"{name}: classes must be at least 2, or None, got {classes}")
    shape = () if classes is None else (classes,)
    w = torch.zeros(*shape, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    return w, torch.zeros(shape, dtype=x.dtype, device=x.device, requires_grad=True)


def _check(name: str, eps: float, norm: float, l2: float, **counts: int) -> None:
    check_length(name, "eps", eps)
    check_norm(name, norm)
    check_length(name, "l2", l2)
    check_counts(name, **counts)
