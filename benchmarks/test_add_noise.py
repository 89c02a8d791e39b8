"""add_noise for a detector's draws: one write of each element is the floor."""

import pytest
import torch
from torch import Tensor

from benchmarks.inputs import DTYPES
from benchmarks.race import Enter, Race
from fastadv import ops

SAMPLES = {"cpu": (64, 1, 28, 28), "cuda": (64, 3, 224, 224)}
DRAWS = {"cpu": 256, "cuda": 32}
SCALE = 0.03


@pytest.mark.parametrize("contender", ["eager", "torch.compile", "native"])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_add_noise(contender: str, kind: str, dtype: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        x = torch.rand(SAMPLES[device], generator=torch.Generator().manual_seed(0)).to(device, DTYPES[dtype])
        shape = (DRAWS[device], *x.shape)

        def eager(x: Tensor) -> Tensor:
            """What one would write; the numbers are others, of the same distribution."""
            if kind == "normal":
                noise = torch.randn(shape, dtype=x.dtype, device=x.device)
            else:
                noise = 2 * torch.rand(shape, dtype=x.dtype, device=x.device) - 1
            return (x + SCALE * noise).clamp(0, 1)

        def check(results: dict[str, Tensor]) -> None:
            for name, noisy in results.items():
                assert noisy.shape == shape, name
                spread = (noisy.double() - x.double()).abs().mean().item()
                expected = (results["eager"].double() - x.double()).abs().mean().item()
                assert abs(spread / expected - 1) < 0.02, (name, spread, expected)

        compiled = torch.compile(eager)
        return Race(
            {
                "eager": lambda: eager(x),
                "torch.compile": lambda: compiled(x),
                "native": lambda: ops.add_noise(x, shape[0], kind=kind, scale=SCALE, seed=0),
            },
            check=check,
            moved=DRAWS[device] * x.nbytes,
        )

    enter(f"add_noise {kind} {dtype}", contender, make)
