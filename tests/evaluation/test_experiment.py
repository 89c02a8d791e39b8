import os
from pathlib import Path

import pytest
import torch
from torch import nn

from fastadv.evaluation.experiment import NAME_BYTES, ask, output_name
from fastadv.models import ModelError


def leave(x):
    raise SystemExit(7)


class InPlace(nn.Module):
    def forward(self, x):
        x -= 0.5
        return x.flatten(1)


def test_a_model_that_works_in_place_leaves_the_images_as_they_are():
    x = torch.rand(2, 3, 4, 4)
    before = x.clone()
    torch.testing.assert_close(ask(InPlace(), x), (before - 0.5).flatten(1))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.flatten(1).tolist(), "returned a list, expected"),
        (lambda x: x.flatten(1)[:1], r"returned \[1, 12\], expected finite logits \[2, K\]"),
        (lambda x: x.flatten(1) / 0, "returned NaN or infinity, expected finite"),
        (leave, r"fails on images of shape \[2, 3, 2, 2\]: SystemExit: 7"),
        (lambda x: [][0], r"fails on images of shape \[2, 3, 2, 2\]: IndexError: list index"),
    ],
)
def test_an_answer_that_is_not_finite_logits_for_every_image_is_refused(answer, message):
    with pytest.raises(ModelError, match=message):
        ask(answer, torch.zeros(2, 3, 2, 2))


def test_output_names_are_distinct_short_and_text():
    folder, taken = Path("folder"), set()
    odd = ["a.png", "a.jpg", "a-2.png", "a\n\x1b.png", os.fsdecode(b"\xe9.png"), "é" * 120, "é" * 120 + "x"]
    for name in odd:
        taken.add(output_name(folder / name, taken))
    cut = "é" * (NAME_BYTES // 2)
    assert taken == {"a", "a-2", "a-2-2", "a__", "_", cut, f"{cut}-2"}
