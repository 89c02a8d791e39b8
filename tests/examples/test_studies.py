"""What the studies share."""

from pathlib import Path

import torch

import minmax
import studies
from fastadv.models.datasets import Images
from minmax_case import DIGITS, FASHION, Settings


def test_no_image_is_trained_on_and_attacked(monkeypatch):
    def fashion_mnist(part, folder):
        first = {"train": 0, "test": 100_000}[part]
        x = torch.arange(first, first + 10_000.0).reshape(-1, 1, 1, 1)
        return Images(x, x.flatten().long() % 10)

    monkeypatch.setattr(studies.datasets, "digits", lambda: fashion_mnist("train", None))
    monkeypatch.setattr(studies.datasets, "fashion_mnist", fashion_mnist)
    data = minmax.load_data(Settings(train_images=700), Path("somewhere"))
    assert list(data) == [DIGITS, FASHION]
    for (trained_on, held_out), shift in zip(data.values(), (0, 100_000), strict=True):
        assert (len(trained_on.y), len(held_out.y)) == (700, 1000)
        numbers = torch.cat([trained_on.x, held_out.x]).flatten()
        assert len(numbers.unique()) == 1700
        assert (trained_on.x < 100_000).all() and (held_out.x >= shift).all()
        assert torch.equal(held_out.y, held_out.x.flatten().long() % 10)
