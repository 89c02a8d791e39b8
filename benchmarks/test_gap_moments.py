"""gap_moments and odds_score on a detector's logits: one read of each noisy logit is the floor."""

import pytest
import torch
from torch import Tensor

from benchmarks.inputs import DTYPES
from benchmarks.race import Enter, Race, agree
from fastadv import ops, reference

SHAPES = {"cpu": (256, 512, 10), "cuda": (256, 512, 1000)}  # draws, samples, classes


@pytest.mark.parametrize("contender", ["reference", "eager", "native"])
def test_gap_moments(contender: str, dtype: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        generator = torch.Generator().manual_seed(0)
        draws, samples, classes = SHAPES[device]
        clean = torch.randn(samples, classes, generator=generator)
        noisy = (clean + 0.1 * torch.randn(draws, samples, classes, generator=generator)).to(
            device, DTYPES[dtype]
        )
        clean = clean.to(device, DTYPES[dtype])

        def eager() -> Tensor:
            """All draws at once, in float64, as one would write it."""
            change = noisy.double() - clean.double()
            gaps = change - change.gather(2, clean.argmax(1).expand(draws, -1)[..., None])
            return torch.stack((gaps.sum(0), gaps.square().sum(0)))

        return Race(
            {
                "reference": lambda: torch.stack(reference.gap_moments(clean, noisy)),
                "eager": eager,
                "native": lambda: torch.stack(ops.gap_moments(clean, noisy)),
            },
            check=agree,
            moved=noisy.nbytes,
        )

    enter(f"gap_moments {dtype}", contender, make)


@pytest.mark.parametrize("contender", ["reference", "native"])
def test_odds_score(contender: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        generator = torch.Generator().manual_seed(0)
        _, samples, classes = SHAPES[device]
        gaps, mean, std = (
            torch.rand(3, rows, classes, generator=generator, dtype=torch.float64).to(device)
            for rows in (samples, classes, classes)
        )
        predicted = torch.randint(classes, (samples,), generator=generator).to(device)
        return Race(
            {
                "reference": lambda: reference.odds_score(gaps, predicted, mean, std)[0],
                "native": lambda: ops.odds_score(gaps, predicted, mean, std)[0],
            },
            check=agree,
            moved=3 * gaps.nbytes,
        )

    enter("odds_score", contender, make)
