"""project on 64 ImageNet-sized perturbations, half of them outside the ball: one read and one write."""

import pytest
import torch

from benchmarks.inputs import EPS, NORMS, images
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
