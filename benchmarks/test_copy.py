"""Plain traffic of 300 MB: the bandwidths that the kernels' own are compared with."""

import pytest
import torch
from torch import Tensor

from benchmarks.inputs import IMAGES
from benchmarks.race import Call, Enter, Race, agree


@pytest.mark.parametrize("kind", ["copy", "read", "write"])
def test_bandwidth(kind: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        source = torch.ones(8, *IMAGES, device=device)
        target = torch.empty_like(source)
        calls: dict[str, Call] = {
            "copy": lambda: target.copy_(source),
            "read": lambda: largest(source),
            "write": lambda: target.fill_(1),
        }
        return Race({kind: calls[kind]}, check=agree, moved=(2 if kind == "copy" else 1) * source.nbytes)

    enter(kind, kind, make)


def largest(x: Tensor) -> Tensor:
    """One read of each element and next to nothing written."""
    return x.amax()
