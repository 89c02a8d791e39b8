"""steepest on 64 ImageNet-sized gradients: one read and one write of each element are the floor."""

import pytest
import torch

from benchmarks.inputs import NORMS, images
from benchmarks.race import Enter, Race, agree
from fastadv import ops, reference


@pytest.mark.parametrize("contender", ["reference", "torch.compile", "native"])
def test_steepest(contender: str, norm: str, dtype: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        grad, p = images(dtype, device)[2], NORMS[norm]
        compiled = torch.compile(lambda grad: reference.steepest(grad, p))
        return Race(
            {
                "reference": lambda: reference.steepest(grad, p),
                "torch.compile": lambda: compiled(grad),
                "native": lambda: ops.steepest(grad, p),
            },
            check=agree,
            moved=2 * grad.nbytes,
        )

    enter(f"steepest l{norm} {dtype}", contender, make)
