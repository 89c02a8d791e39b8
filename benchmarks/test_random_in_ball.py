"""random_in_ball around 64 ImageNet-sized images: one read and one write of each element are the floor."""

import pytest
import torch

from benchmarks.inputs import EPS, NORMS, images
from benchmarks.race import Enter, Race, agree
from fastadv import ops, reference


@pytest.mark.parametrize("contender", ["reference", "torch.compile", "native"])
def test_random_in_ball(contender: str, norm: str, dtype: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        x, eps, p = images(dtype, device)[1], EPS[norm], NORMS[norm]
        seed = torch.tensor([1, 0], device=device)
        compiled = torch.compile(lambda x, seed: reference.random_in_ball(x, eps, p, seed=seed))
        return Race(
            {
                "reference": lambda: reference.random_in_ball(x, eps, p, seed=seed),
                "torch.compile": lambda: compiled(x, seed),
                "native": lambda: ops.random_in_ball(x, eps, p, seed=seed),
            },
            check=agree,
            moved=2 * x.nbytes,
        )

    enter(f"random_in_ball l{norm} {dtype}", contender, make)
