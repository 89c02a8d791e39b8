"""A plain copy of 300 MB: the memory bandwidth that the kernels' own is compared with."""

import torch

from benchmarks.inputs import IMAGES
from benchmarks.race import Enter, Race, agree


def test_copy(device: str, enter: Enter) -> None:
    def make() -> Race:
        source = torch.ones(8, *IMAGES, device=device)
        target = torch.empty_like(source)
        return Race({"copy": lambda: target.copy_(source)}, check=agree, moved=2 * source.nbytes)

    enter("copy", "copy", make)
