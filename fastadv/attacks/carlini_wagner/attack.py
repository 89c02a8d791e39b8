"""The attack's fields, and what becomes of a batch."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fastadv._checks import is_real, norm_number
from fastadv.attacks.attack import (
    AttackResult,
    Model,
    OnStep,
    Progress,
    check_counts,
    check_gradient,
    check_seed,
    check_surroundings,
    distances,
    forward,
    key_of,
    nothing_found,
    pose,
    undisturbed,
)
from fastadv.attacks.carlini_wagner.l0 import L0Search
from fastadv.attacks.carlini_wagner.l2 import L2Search
from fastadv.attacks.carlini_wagner.linf import LinfSearch
from fastadv.attacks.carlini_wagner.search import Search
from fastadv.attacks.gradients import Autograd, Estimator, Gradient


class _Defaults(NamedTuple):
    """What fields that are None stand for, in a norm."""

    search: type[Search]
    search_steps: int
    lr: float
    c_init: float


_DEFAULTS = {
    2.0: _Defaults(L2Search, 9, 1e-2, 1e-3),
    math.inf: _Defaults(LinfSearch, 60, 5e-3, 1e-2),
    0.0: _Defaults(L0Search, 60, 1e-2, 1e-2),
}


@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    """The smallest perturbation that makes the model err, found for every sample on its own.

    Carlini and Wagner, "Towards evaluating the robustness of neural networks" (IEEE S&P 2017); the survey's
    section 7. Perturbations are sought in tanh space, where every point is inside the box, by Adam
    (`fastadv.ops.cw_step_`), on

        distance(x', x) - c * reward(x')

    and what comes back is the iterate of least distance that succeeds. In each norm:

    - 2 (section VI-A): the squared distance, started from x anew for each of `search_steps` values of c, by
      bisection: smaller after a success, larger after none.
    - inf (VI-C): the sum of what exceeds tau, max(0, |x'_i - x_i| - tau). After a success tau shrinks to 0.9
      of the distance found; without one c grows, and at its largest tau goes back half-way, until it is
      known to 1%.
    - 0 (VI-B): the squared distance, with fewer and fewer elements that may change: after a success those
      that matter least, by |gradient| * room in the box (as published: * |change|), stay as they are in x.
      Where that goes wrong, c grows, and at its largest half as many are tried, until a single one is too
      many.

    Here every sample has its own c, tau, elements and end: batch mates change nothing, and samples that are
    done leave the work. A descent that does not gain 0.01% in a tenth of its steps (at least 15, if it has
    met a success) ends. In norm 2 up to three values of c with which no success could pay, by the slope at x,
    are passed over, and count as descents.

    `success` means that x_adv is misclassified (classified as the target), by at least `confidence` in
    logits; a sample for which nothing is found comes back as it is. So does, with success and distance 0,
    one that is to begin with.

    Args:
        norm: 2, math.inf or 0, or "l2", "linf", "l0".
        confidence: by how much the logit of another class (the target) must exceed that of y (of every
            other), >= 0. x itself counts as a success only if it meets it.
        steps: of Adam in each descent, >= 1.
        search_steps: descents at most, >= 1; None is 9 for norm 2, 60 for inf and 0.
        lr: Adam's step size in tanh space, > 0; None is 0.01, for inf 0.005.
        c_init: the first c, > 0; None is 0.001, for inf and 0 0.01. In norms 2 and 0 it stands beside
            distances in units of the box.
        objective: the reward. "margin": min(0, margin - confidence), the margin being that of
            `fastadv.attacks.losses`, so that it ends where the goal is reached. "ce": the cross-entropy
            (targeted: minus that of the target), which never ends; with norm 2 the distance is then not
            squared, and 1 / c is the survey's lambda: fix it by `search_steps=1, c_init=1 / lambda`.
        stretch: of tanh space, finite and >= 0: elements are lower + (upper - lower) (t + 1) / 2 with
            t = (1 + stretch) tanh(w / (1 + stretch)), kept in [-1, 1]. 0 is the published map, in which an
            element at a face of the box needs hundreds of steps to leave it; see docs/design.md.
        pixels: in norm 0, count and keep pixels, all channels together, of samples [C, H, W] (or with other
            dimensions behind C), as published; False, and in vectors: single elements.
        gradient: where gradients come from, as in `fastadv.PGD`.
        bounds: (lower, upper) of every element of x, both finite: the image of tanh space.
        autocast: run the model, and nothing else, under torch.autocast with this dtype.
        chunk: at most so many samples at a time; None is all.
        seed: of estimated gradients, as in `fastadv.PGD`.

    Raises:
        TypeError: `gradient` is no gradient, or a class.
        ValueError: a field is out of range.
    """

    norm: float | Literal["l2", "linf", "l0"] = 2
    confidence: float = 0.0
    steps: int = 1000
    search_steps: int | None = None
    lr: float | None = None
    c_init: float | None = None
    objective: Literal["margin", "ce"] = "margin"
    stretch: float = 0.25
    pixels: bool = True
    gradient: Gradient | Estimator = Autograd()
    bounds: tuple[float, float] = (0.0, 1.0)
    autocast: torch.dtype | None = None
    chunk: int | None = None
    seed: int | torch.Generator = 0

    def __post_init__(self) -> None:
        """Refuse fields out of range, and fill in those that depend on the norm."""
        name = type(self).__name__
        norm = norm_number(self.norm)
        if norm is None or norm not in _DEFAULTS:
            raise ValueError(f"{name}: norm must be 2, inf or 0, got {self.norm!r}")
        chosen = _DEFAULTS[norm]
        object.__setattr__(self, "norm", norm)
        for field in ("search_steps", "lr", "c_init"):
            if getattr(self, field) is None:
                object.__setattr__(self, field, getattr(chosen, field))
        for field in ("lr", "c_init"):
            value = getattr(self, field)
            if not is_real(value) or not 0 < float(value) < math.inf:
                raise ValueError(f"{name}: {field} must be positive and finite, got {value!r}")
        if not is_real(self.confidence) or not 0 <= float(self.confidence) < math.inf:
            raise ValueError(f"{name}: confidence must be finite and at least 0, got {self.confidence!r}")
        if not is_real(self.stretch) or not 0 <= float(self.stretch) < math.inf:
            raise ValueError(f"{name}: stretch must be finite and at least 0, got {self.stretch!r}")
        if self.objective not in ("margin", "ce"):
            raise ValueError(f"{name}: objective must be 'margin' or 'ce', got {self.objective!r}")
        if self.bounds is None:
            raise ValueError(f"{name}: bounds must be (lower, upper), the image of tanh space, got None")
        check_surroundings(name, self.bounds, self.autocast)
        if not all(map(math.isfinite, self.bounds)):
            raise ValueError(f"{name}: bounds must be finite, the image of tanh space, got {self.bounds}")
        check_counts(name, steps=self.steps, search_steps=self.search_steps, chunk=self.chunk)
        check_gradient(name, self.gradient)
        check_seed(name, self.seed)

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        target: Tensor | int | None = None,
        ids: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """The adversarial samples alone; see `run`."""
        return self.run(model, x, y, target=target, ids=ids, on_step=on_step).x_adv

    def run(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        target: Tensor | int | None = None,
        ids: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> AttackResult:
        """Attack a batch.

        Args:
            model: [B, ...] within bounds -> logits [B, K]. Attacked in eval mode; modes, gradients,
                parameters and statistics are left as they were.
            x: [B, ...] floating point, finite, within bounds, of any shape. For float16 and bfloat16 tanh
                space and Adam are in float32, and the model sees images in the dtype of x.
            y: [B] int64 true labels; None: the model's own predictions.
            target: [B] int64 or an int: attack towards these classes, not just away from y.
            ids: [B] int64: which random numbers each sample gets; default 0 .. B-1.
            on_step: called with (steps done, steps at most) after each step.

        Returns:
            An `AttackResult`. Its distance is that of x_adv to x, in pixels where norm 0 counts those; its
            loss is the margin or cross-entropy at x_adv.

        Raises:
            TypeError: wrong dtypes.
            ValueError: wrong shapes or devices; x not finite or outside bounds; labels that are no classes;
                model output that is not [B, K] or not finite, or through which no gradient reaches x.
        """
        with undisturbed(model):
            problem = pose(type(self).__name__, x, y, target, ids, self.bounds)
            result = nothing_found(problem)
            run_model = forward(type(self).__name__, model, self.autocast)
            key = key_of(self.seed)
            chunks = range(0, len(x), self.chunk or max(1, len(x)))
            assert self.search_steps is not None and isinstance(self.norm, float)
            for number, start in enumerate(chunks):
                part = problem[start : start + chunks.step]
                progress = Progress(on_step, number, len(chunks), self.search_steps * self.steps)
                _DEFAULTS[self.norm].search(self, run_model, part, problem, key, result, progress).run()
            result.distance.copy_(distances(result.x_adv, problem.x, self.norm, self.pixels))
        return result
