"""The one classifier for which the game is solved in closed form: the linear one, in the survey's section 4.

Within an lp ball of radius eps, <w, delta> is at least -eps * ||w||_q with 1/p + 1/q = 1 (Hoelder), and
`worst_case` attains it. So the margin in the worst case, the loss there and the distance to the boundary are
formulas: Kolter and Madry, "Adversarial robustness: theory and practice" (NeurIPS 2018 tutorial), chapter 2.

All functions here take the same four things first:

- w: [D] for two classes, of which +1 is predicted where <w, x> + b is positive; or [K, D], a row for each of
  K classes, of which the one with the largest <w_i, x> + b_i is predicted.
- b: a number or a tensor [] for two classes, [K] for K.
- x: [B, D] samples, in the dtype of w and on its device.
- y: [B] labels, -1 and +1 for two classes, int64 0 .. K - 1 for K.

They raise TypeError and ValueError where these do not fit together. `norm` is the p of the ball, in [1, inf].
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastadv import ops
from fastadv._checks import Bounds, is_interval, is_real
from fastadv.attacks.attack import check_length, check_lengths


def certify(
    w: Tensor, b: float | Tensor, x: Tensor, y: Tensor, norm: float, *, bounds: Bounds = None
) -> Tensor:
    """The exact lp distance from each sample to the nearest point that is not classified as y.

    |<w, x> + b| / ||w||_q for two classes; for K, the smallest over i != y of
    (<w_y - w_i, x> + b_y - b_i) / ||w_y - w_i||_q, because the region of y is cut out by these half-spaces.
    No attack succeeds within it, and `worst_case` does with any eps above it. A box makes attacks harder:
    for those that stay in one, the distance without `bounds` is a lower bound.

    Args:
        w: [D] or [K, D].
        b: a number, [] or [K].
        x: [B, D] samples.
        y: [B] labels; see the module.
        norm: p, in [1, inf].
        bounds: (lower, upper) of every element, for norm inf only: the distance to the nearest point within
            this box.

    Returns:
        [B] float64, computed in float64. 0 for a sample that is misclassified or on the boundary, which an
        attack need not move; infinity where no perturbation changes the class. A model that computes in
        float32 may change its answer by so much earlier as its logits are rounded.
    """
    game = _pose("certify", w, b, x, y, norm, bounds).double()
    if bounds is None:
        gaps, norms = game.gaps(), game.dual_norms(norm)[game.y]
        radii = torch.where(norms > 0, gaps / norms, torch.where(gaps > 0, math.inf, 0))
    else:
        rivals = [_distance_in_box(*pair) for pair in zip(game.gaps().T, *game.pairs(bounds), strict=True)]
        radii = torch.stack(rivals, dim=1)
    return game.least(radii).clamp(min=0)


def robust_margin(
    w: Tensor,
    b: float | Tensor,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    norm: float,
    *,
    bounds: Bounds = None,
) -> Tensor:
    """The margin that the worst case leaves each sample: y (<w, x> + b) - eps * ||w||_q for two classes.

    For K, the smallest over i != y of <w_y - w_i, x> + b_y - b_i - eps * ||w_y - w_i||_q. A sample is
    certified at eps where it is positive. Differentiable in w and b.

    Args:
        w: [D] or [K, D].
        b: a number, [] or [K].
        x: [B, D] samples.
        y: [B] labels; see the module.
        eps: radius of the ball in the units of x, >= 0; float or [B].
        norm: p, in [1, inf].
        bounds: (lower, upper) of every element, for norm inf only: attacks stay in this box.

    Returns:
        [B] in the dtype of x.
    """
    game = _pose("robust_margin", w, b, x, y, norm, bounds)
    return game.least(game.robust_gaps(_radii("robust_margin", eps, x), norm, bounds))


def robust_loss(
    w: Tensor,
    b: float | Tensor,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    norm: float,
    *,
    smoothing: float | Tensor = 0.0,
) -> Tensor:
    """The logistic loss of each sample in the worst case: log(1 + exp(-y (<w, x> + b) + eps * ||w||_q)).

    The survey's section 4, sign corrected. For K classes it is the cross-entropy with the gap to every class
    at its own worst, log(sum over i of exp(-(<w_y - w_i, x> + b_y - b_i) + eps * ||w_y - w_i||_q)): an upper
    bound of the cross-entropy in the worst case, since one perturbation cannot do its worst to all gaps, and
    the same for K = 2. Convex in (w, b).

    Args:
        w: [D] or [K, D].
        b: a number, [] or [K].
        x: [B, D] samples.
        y: [B] labels; see the module.
        eps: radius of the ball in the units of x, >= 0; float or [B].
        norm: p, in [1, inf].
        smoothing: s > 0 takes the kinks out of the norm for methods that need a gradient: with
            sqrt(w_i^2 + s^2) for |w_i|, less s * ||1||_q, which is convex and at most s * D^(1/q) below it.
            A tensor [D] smooths each element by its own s_i, less ||s||_q.

    Returns:
        [B] in the dtype of x; differentiable in w and b, with 0 as the subgradient of |w_i| at 0.
    """
    check_length("robust_loss", "smoothing", smoothing)
    game = _pose("robust_loss", w, b, x, y, norm)
    norms = game.dual_norms(norm, smoothing)[game.y]
    return (_radii("robust_loss", eps, x) * norms - game.gaps()).logsumexp(1)


def worst_case(
    w: Tensor,
    b: float | Tensor,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    norm: float,
    *,
    bounds: Bounds = None,
) -> Tensor:
    """The perturbation that leaves the least margin: -y * eps * argmax over ||u||_p <= 1 of <u, w>.

    For norm inf that is -y * eps * sgn(w), FGSM's step. With K classes the direction is that towards the
    class against which `robust_margin` is attained. Where w is 0, it is 0.

    Args:
        w: [D] or [K, D].
        b: a number, [] or [K].
        x: [B, D] samples.
        y: [B] labels; see the module.
        eps: radius of the ball in the units of x, >= 0; float or [B].
        norm: p, in [1, inf].
        bounds: (lower, upper) of every element, for norm inf only: x + delta stays in this box.

    Returns:
        [B, D] delta in the dtype of x. Not differentiable: by Danskin's theorem the loss at x + delta, delta
        taken for a constant, has the gradient of `robust_loss` (two classes).
    """
    with torch.no_grad():
        game = _pose("worst_case", w, b, x, y, norm, bounds)
        radii = _radii("worst_case", eps, x)
        rival = game.rivals_only(game.robust_gaps(radii, norm, bounds)).argmin(1)
        delta = -radii * ops.steepest(game.weight[game.y] - game.weight[rival], norm)
        return delta if bounds is None else delta.clamp(bounds[0] - x, bounds[1] - x)


def dual_norm(w: Tensor, norm: float) -> Tensor:
    """||w||_q over the last dimension with 1/p + 1/q = 1: the largest <w, u> with u in the unit lp ball.

    `norm` is p, in [1, inf]. Scaled by the largest element, so that no power overflows or all vanish;
    differentiable, with 0 at 0.
    """
    exponent = _conjugate(check_norm("dual_norm", norm))
    largest = w.detach().abs().amax(-1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1)
    return torch.linalg.vector_norm(w / largest, exponent, dim=-1) * largest.squeeze(-1)


def linear_model(w: Tensor, b: float | Tensor) -> nn.Module:
    """The classifier as a module for attacks and whatever else takes one: [B, ...] -> logits [B, K].

    Args:
        w: [D] or [K, D]; for two classes -1 becomes class 0 and +1 class 1, and the two logits differ by
            <w, x> + b.
        b: a number, [] or [K].
    """
    weight, bias = _per_class("linear_model", w, b)
    layer = nn.Linear(weight.shape[1], len(weight), device=w.device, dtype=w.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer).eval()


def check_norm(name: str, norm: float) -> float:
    """The p of a ball as a float. Raises ValueError, `name` first, if it is not in [1, inf]."""
    if not is_real(norm) or not norm >= 1:
        raise ValueError(f"{name}: norm must be a number in [1, inf], got {norm!r}")
    return float(norm)


class _Game(NamedTuple):
    """Two classes or K as one: the class of +1 has half of (w, b), that of -1 minus it, exactly."""

    weight: Tensor  # [K, D]
    bias: Tensor  # [K]
    x: Tensor  # [B, D]
    y: Tensor  # [B] int64

    def double(self) -> "_Game":
        return _Game(self.weight.double(), self.bias.double(), self.x.double(), self.y)

    def gaps(self) -> Tensor:
        """[B, K]: by how much the logit of y leads each class's; 0 for y itself."""
        logits = self.x @ self.weight.T + self.bias
        return logits.gather(1, self.y[:, None]) - logits

    def dual_norms(self, norm: float, smoothing: float | Tensor = 0.0) -> Tensor:
        """[K, K]: ||w_i - w_j||_q, smoothed as in `robust_loss`."""
        differences = self.weight[:, None] - self.weight
        if not isinstance(smoothing, Tensor) and smoothing == 0:
            return dual_norm(differences, norm)
        offset = torch.zeros_like(self.weight[0]) + smoothing
        return dual_norm((differences.square() + offset**2).sqrt(), norm) - dual_norm(offset, norm)

    def pairs(self, bounds: tuple[float, float]) -> tuple[list[Tensor], list[Tensor]]:
        """For each rival [B, D]: |w_y - w_i|, and how far elements can go against it within the box."""
        differences = [self.weight[self.y] - rival for rival in self.weight]
        rooms = [torch.where(d > 0, self.x - bounds[0], bounds[1] - self.x) for d in differences]
        return [d.abs() for d in differences], rooms

    def robust_gaps(self, radii: Tensor, norm: float, bounds: Bounds = None) -> Tensor:
        """[B, K]: the gaps, each in its own worst case; `radii` [B, 1] or [1, 1]."""
        if bounds is None:
            return self.gaps() - radii * self.dual_norms(norm)[self.y]
        pairs = zip(*self.pairs(bounds), strict=True)
        return self.gaps() - torch.stack([(d * room.minimum(radii)).sum(1) for d, room in pairs], dim=1)

    def rivals_only(self, gaps: Tensor) -> Tensor:
        """[B, K] with infinity for y itself."""
        return gaps.scatter(1, self.y[:, None], math.inf)

    def least(self, gaps: Tensor) -> Tensor:
        """[B]: the smallest over i != y."""
        return self.rivals_only(gaps).amin(1)


def _pose(
    name: str, w: Tensor, b: float | Tensor, x: Tensor, y: Tensor, norm: float, bounds: Bounds = None
) -> _Game:
    """The game, checked. Raises TypeError and ValueError, `name` first."""
    check_norm(name, norm)
    weight, bias = _per_class(name, w, b)
    if x.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"{name}: x must be [B, {weight.shape[1]}] as w is, got {list(x.shape)}")
    if (x.dtype, x.device) != (w.dtype, w.device):
        raise TypeError(f"{name}: x must be {w.dtype} on {w.device} as w is, got {x.dtype} on {x.device}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{name}: y must have shape [{len(x)}], got {list(y.shape)}")
    if w.dim() == 1:
        if not (y.abs() == 1).all():
            raise ValueError(f"{name}: y must be -1 or +1 for two classes, w of shape [D]")
        y = (y > 0).long()
    elif y.dtype != torch.int64 or not ((y >= 0) & (y < len(w))).all():
        raise ValueError(f"{name}: y must be int64 classes 0 .. {len(w) - 1}, w of shape [K, D]")
    if bounds is not None:
        if norm != math.inf:
            raise ValueError(
                f"{name}: bounds have a closed form for norm inf only, got norm {norm}: leave them out"
            )
        if not is_interval(bounds):
            raise ValueError(f"{name}: bounds must be (lower, upper) with lower < upper, got {bounds!r}")
        if not ((x >= bounds[0]) & (x <= bounds[1])).all():
            raise ValueError(f"{name}: x must lie within bounds {bounds}")
    return _Game(weight, bias, x, y)


def _per_class(name: str, w: Tensor, b: float | Tensor) -> tuple[Tensor, Tensor]:
    """Weights [K, D] and biases [K]."""
    if not w.is_floating_point():
        raise TypeError(f"{name}: w must be a floating-point tensor, got {w.dtype}")
    if w.dim() not in (1, 2) or w.shape[-1] == 0 or (w.dim() == 2 and len(w) < 2):
        raise ValueError(f"{name}: w must be [D] or [K, D] with K >= 2, got {list(w.shape)}")
    bias = torch.as_tensor(b, dtype=w.dtype, device=w.device)
    if bias.shape != w.shape[:-1]:
        raise ValueError(f"{name}: b must have shape {list(w.shape[:-1])}, got {list(bias.shape)}")
    if w.dim() == 2:
        return w, bias
    return torch.stack((-w / 2, w / 2)), torch.stack((-bias / 2, bias / 2))


def _radii(name: str, eps: float | Tensor, x: Tensor) -> Tensor:
    """eps as [1, 1] or [B, 1] in the dtype of x."""
    check_length(name, "eps", eps)
    radii = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    check_lengths(name, "eps", radii)
    if radii.dim() > 0 and radii.shape != x.shape[:1]:
        raise ValueError(f"{name}: eps must be a number or have shape [{len(x)}], got {list(radii.shape)}")
    return radii.reshape(-1, 1)


def _conjugate(norm: float) -> float:
    """q with 1/p + 1/q = 1."""
    if norm == 1:
        return math.inf
    return 1.0 if norm == math.inf else norm / (norm - 1)


def _distance_in_box(gap: Tensor, slope: Tensor, room: Tensor) -> Tensor:
    """[B]: the least eps >= 0 at which the sum of slope_j * min(eps, room_j) reaches the gap, or infinity.

    The sum is piecewise linear in eps and rises more slowly after each room that is used up.
    """
    room, order = room.sort(1)
    slope = slope.gather(1, order)
    rest = slope.flip(1).cumsum(1).flip(1)  # how steep the sum is before room j is used up
    used = (slope * room).cumsum(1) - slope * room  # what the elements before j have given in all
    reached = used + rest * room  # the sum where room j is used up
    last = (reached < gap[:, None]).sum(1, keepdim=True)
    piece = last.clamp(max=room.shape[1] - 1)
    steep = rest.gather(1, piece)
    distance = (gap[:, None] - used.gather(1, piece)) / torch.where(steep > 0, steep, 1)
    reachable = torch.where((last == piece) & (steep > 0), distance, math.inf).squeeze(1)
    return torch.where(gap > 0, reachable, 0)
