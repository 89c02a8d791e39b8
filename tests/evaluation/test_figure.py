import numpy as np
import pytest
import torch
from PIL import Image

from fastadv.evaluation.figure import (
    CAPTION,
    GAP,
    HEADING,
    MARGIN,
    PANEL_WIDTH,
    ROW_GAP,
    Row,
    percent,
    save_figure,
)


def panel(figure, row, column, size):
    """One pixel of the figure for each pixel of the image shown there."""
    top = MARGIN // 2 + HEADING + row * (HEADING + PANEL_WIDTH + CAPTION + ROW_GAP)
    left = MARGIN + column * (PANEL_WIDTH + GAP)
    step = PANEL_WIDTH // size
    return figure[top + step // 2 : top + PANEL_WIDTH : step, left + step // 2 : left + PANEL_WIDTH : step]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figure_shows_both_images_to_the_bit_and_fifty_times_their_difference(tmp_path, channels):
    generator = torch.Generator().manual_seed(0)
    original = torch.randint(2, 254, (channels, 56, 56), generator=generator) / 255
    result = original + torch.randint(-2, 3, original.shape, generator=generator) / 255
    row = Row("goal", original, result, ("cat $x$", 0.5), ("dog [red]", 0.25), True)
    save_figure([row, row], "linf", tmp_path / "figure.png")
    figure = np.asarray(Image.open(tmp_path / "figure.png").convert("RGB")).astype(int)
    noise = 50 * (result - original) + 0.5
    for line in (0, 1):
        for column, image in enumerate((original, noise, result)):
            expected = (image * 255).round().expand(3, 56, 56).permute(1, 2, 0).numpy()
            assert np.abs(panel(figure, line, column, 56) - expected).max() <= 1


def test_a_large_perturbation_is_magnified_less_so_that_none_of_it_is_cut_off(tmp_path):
    original = torch.full((1, 56, 56), 100 / 255)
    result = original + torch.linspace(-20, 20, 56).round() / 255
    row = Row("goal", original, result, ("cat", 0.5), ("dog", 0.25), True)
    save_figure([row], "linf", tmp_path / "figure.png")
    shown = panel(np.asarray(Image.open(tmp_path / "figure.png").convert("L")).astype(int), 0, 1, 56)
    expected = ((6 * (result - original) + 0.5) * 255).round()[0].numpy()
    assert np.abs(shown - expected).max() <= 1


def test_nothing_is_drawn_at_the_figure_s_edge(tmp_path):
    image = torch.zeros(3, 28, 28)
    long = ("W" * 60, 1.0)
    save_figure([Row("goal " * 60, image, image, long, long, True)], "linf", tmp_path / "figure.png")
    figure = np.asarray(Image.open(tmp_path / "figure.png").convert("RGB"))
    for edge in (figure[:4], figure[-4:], figure[:, :4], figure[:, -4:]):
        assert (edge == 255).all()


@pytest.mark.filterwarnings("error")
def test_characters_that_cannot_be_drawn_are_written_as_escapes(tmp_path):
    image = torch.zeros(3, 28, 28)
    for name, file in [("a\x1b\udce9", "odd.png"), (r"a\x1b\udce9", "plain.png")]:
        save_figure([Row(name, image, image, (name, 1.0), (name, 1.0), True)], "linf", tmp_path / file)
    assert (tmp_path / "odd.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_a_wide_image_keeps_its_proportions(tmp_path):
    image = torch.rand(3, 20, 40)
    save_figure([Row("goal", image, image, ("a", 1.0), ("b", 1.0), False)], "linf", tmp_path / "wide.png")
    save_figure([Row("goal", image, image, ("a", 1.0), ("b", 1.0), False)] * 2, "linf", tmp_path / "two.png")
    wide, two = Image.open(tmp_path / "wide.png").size, Image.open(tmp_path / "two.png").size
    assert wide[0] == two[0] == 2 * MARGIN + 3 * PANEL_WIDTH + 2 * GAP
    assert two[1] - wide[1] == HEADING + PANEL_WIDTH // 2 + CAPTION + ROW_GAP


def test_a_rate_in_per_cent_is_cut_where_its_exact_fraction_is():
    """57 / 200 is 28.5%, though the nearest float times 10,000 is below 2850."""
    for n in range(1, 1001):
        for count in range(n + 1):
            whole, part = divmod(10_000 * count // n, 100)
            assert percent(count / n) == f"{whole}.{part:02d}%"


def test_a_confidence_is_never_rounded_up():
    assert [percent(p) for p in (1.0, 0.99999, 0.9899999, 0.5)] == ["100.00%", "99.99%", "98.99%", "50.00%"]
