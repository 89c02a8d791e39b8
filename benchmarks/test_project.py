"""project on 64 ImageNet-sized perturbations, half of them outside the ball: one read and one write."""

from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks.inputs import EPS, LP_EPS, NORMS, images
from benchmarks.race import Enter, Race, agree
from fastadv import ops, reference


@pytest.mark.parametrize("contender", ["reference", "torch.compile", "native"])
def test_project(contender: str, norm: str, dtype: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        eps, p = EPS[norm], NORMS[norm]
        delta = images(dtype, device)[2].mul_(eps / 200)
        delta[::2] *= 0.01
        compiled = torch.compile(lambda delta: reference.project(delta, eps, p))
        return Race(
            {
                "reference": lambda: reference.project(delta, eps, p),
                "torch.compile": lambda: compiled(delta),
                "native": lambda: ops.project(delta, eps, p),
            },
            check=agree,
            moved=2 * delta.nbytes,
        )

    enter(f"project l{norm} {dtype}", contender, make)


def outside_the_ball(norm: str, dtype: str, device: str) -> tuple[Tensor, float]:
    """Normal perturbations [64, 150528], half of them inside the ball, and its radius."""
    delta = images(dtype, device)[2].flatten(1)
    delta[::2] *= 0.001
    return delta, LP_EPS[norm]


def by_sorting(delta: Tensor, eps: float) -> Tensor:
    """The l1 projection of Duchi et al. (ICML 2008), Figure 1, its sums in float64."""
    size = delta.abs()
    ordered = size.sort(dim=1, descending=True).values.double()
    above = ordered.cumsum(1) - eps
    counts = torch.arange(1, delta.shape[1] + 1, device=delta.device)
    count = (ordered * counts > above).sum(1, keepdim=True)
    theta = (above.gather(1, count - 1) / count).to(delta.dtype)
    inside = size.sum(1, keepdim=True, dtype=torch.float64) <= eps
    return torch.where(inside, delta, (size - theta).clamp_(min=0).copysign_(delta))


def by_bisection(delta: Tensor, eps: float) -> Tensor:
    """The l1.5 projection: u + mu sqrt(u) = |v|, solved in closed form, mu bisected for all samples at once.

    30 halvings of the bracket [0, ||v||_3 / sqrt(eps)] leave the norm right to 1e-6; its sums are in float64.
    """

    def norm(u: Tensor) -> Tensor:
        return (u * u.sqrt()).sum(1, keepdim=True, dtype=torch.float64) ** (2 / 3)

    def shrunk(mu: Tensor) -> Tensor:
        return (2 * size / (mu + (mu * mu + 4 * size).sqrt())).square()

    size = delta.abs()
    low = torch.zeros_like(size[:, :1])
    high = torch.linalg.vector_norm(size, 3, dim=1, keepdim=True) / eps**0.5
    for _ in range(30):
        mu = (low + high) / 2
        outside = norm(shrunk(mu)) > eps
        low, high = torch.where(outside, mu, low), torch.where(outside, high, mu)
    return torch.where(norm(size) <= eps, delta, shrunk(high).copysign(delta))


@pytest.mark.parametrize("contender", ["sorting", "reference", "native"])
def test_project_l1(contender: str, dtype: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        delta, eps = outside_the_ball("1", dtype, device)
        return Race(
            {
                "sorting": lambda: by_sorting(delta, eps),
                "reference": lambda: reference.project(delta, eps, 1),
                "native": lambda: ops.project(delta, eps, 1),
            },
            check=partial(agree_on_the_sphere, eps=eps, norm=1.0),
            moved=2 * delta.nbytes,
        )

    enter(f"project l1 {dtype}", contender, make)


@pytest.mark.parametrize("contender", ["bisection", "native"])
def test_project_l1_5(contender: str, dtype: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        delta, eps = outside_the_ball("1.5", dtype, device)
        return Race(
            {
                "bisection": lambda: by_bisection(delta, eps),
                "native": lambda: ops.project(delta, eps, 1.5),
            },
            check=partial(agree_on_the_sphere, eps=eps, norm=1.5),
            moved=2 * delta.nbytes,
        )

    enter(f"project l1.5 {dtype}", contender, make)


def agree_on_the_sphere(results: dict[str, Tensor], eps: float, norm: float) -> None:
    """That the results agree, and in float32 have norm eps to 1e-6 where they were outside."""
    agree(results)
    for name, result in results.items():
        lengths = torch.linalg.vector_norm(result[1::2].double(), norm, dim=1)
        tolerance = max(1e-6, torch.finfo(result.dtype).eps)
        assert ((lengths / eps - 1).abs() <= tolerance).all(), f"{name}: norms {lengths} for eps {eps}"
