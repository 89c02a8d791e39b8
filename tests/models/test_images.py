import math
import os
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastadv.models.images import ImageError, levels, load_image, quantize, sample_files, samples, save_png
from fastadv.models.text import printable


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


def as_tensor(array):
    return torch.tensor(np.atleast_3d(array)).permute(2, 0, 1).float() / 255


def test_an_image_of_the_asked_size_comes_back_to_the_bit(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for size in (None, (24, 36)):
        loaded = load_image(tmp_path / "a.png", size)
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, as_tensor(pixels))


@pytest.mark.parametrize("shape", [(20, 40), (40, 20)])
def test_the_shorter_side_is_resized_and_the_centre_cut_out(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    half = Image.fromarray(array).resize((shape[1] // 2, shape[0] // 2), Image.Resampling.BICUBIC)
    left, top = (5, 0) if shape[1] > shape[0] else (0, 5)
    expected = as_tensor(np.asarray(half.crop((left, top, left + 10, top + 10))))
    torch.testing.assert_close(load_image(tmp_path / "a.png", 10), expected, rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_every_kind_of_png_is_read_as_rgb_and_as_grey(tmp_path, pixels, mode):
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "a.png")
    assert torch.equal(load_image(tmp_path / "a.png"), as_tensor(np.asarray(image.convert("RGB"))))
    assert load_image(tmp_path / "a.png", 10, channels=1).shape == (1, 10, 10)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_kind_of_jpeg_is_read(tmp_path, mode):
    Image.new("RGB", (16, 16), (200, 40, 90)).convert(mode).save(tmp_path / "a.jpg", quality=100)
    mean = load_image(tmp_path / "a.jpg").mean((1, 2)) * 255
    expected = torch.tensor([200.0, 40, 90]) if mode != "L" else torch.tensor([94.0] * 3)
    torch.testing.assert_close(mean, expected, rtol=0, atol=2)


def test_transparent_pixels_are_laid_on_white(tmp_path):
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    expected = torch.tensor([[1.0, 1], [0, 1], [0, 1]])
    assert torch.equal(load_image(tmp_path / "a.png")[:, :, 0], expected)
    palette = Image.new("P", (2, 2))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "p.png", transparency=0)
    assert torch.equal(load_image(tmp_path / "p.png"), torch.ones(3, 2, 2))


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert torch.equal(load_image(tmp_path / "a.png", channels=1), as_tensor((ramp >> 8).astype(np.uint8)))


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (32, 16))
    image.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the white left half comes to the top
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    loaded = load_image(tmp_path / "a.jpg")
    assert loaded.shape == (3, 32, 16)
    assert loaded[:, :12].mean() > 0.98
    assert loaded[:, 20:].mean() < 0.02


def test_what_is_no_image_is_refused_in_one_line_that_names_the_file(tmp_path, pixels):
    whole = tmp_path / "whole.png"
    Image.fromarray(pixels).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[: os.path.getsize(whole) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(pixels).save(tmp_path / "other.png", format="BMP")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in [
        ("none.png", "no such file"),
        ("cut.png", "cannot be read"),
        ("text.jpg", "not a JPEG or PNG"),
        ("empty.png", "not a JPEG or PNG"),
        ("other.png", "not a JPEG or PNG"),
        ("folder.png", "cannot be read"),
        ("pipe.png", r"cannot be read \(not a regular file\)"),
        ("x" * 300, "cannot be read .*File name too long"),
        ("no\nne.png", "no such file"),
    ]:
        with pytest.raises(ImageError, match=f"{re.escape(printable(name))}: {reason}") as error:
            load_image(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_written_and_read_back_is_the_same_to_the_bit(tmp_path, channels):
    image = torch.arange(256).float().div(255).repeat(channels, 3, 1)
    save_png(image, tmp_path / "a.png")
    assert torch.equal(load_image(tmp_path / "a.png", channels=channels), image)


def test_png_refuses_what_it_would_have_to_round(tmp_path):
    for bad in (
        torch.full((3, 2, 2), 0.5),
        torch.full((3, 2, 2), 256 / 255),
        torch.full((3, 2, 2), math.nan),
    ):
        with pytest.raises(ValueError, match="expected an 8-bit image"):
            save_png(bad, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"expected \[1 or 3, H, W\], got \[2, 2\]"):
        save_png(torch.zeros(2, 2), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@settings(deadline=None, max_examples=60)
@given(
    eps=st.sampled_from([2 / 255, 1.5 / 255, 8 / 255, 0.3 / 255, 0.02, 0.3]),
    spread=st.floats(0.0, 1.0),
    seed=st.integers(0, 10**6),
)
def test_linf_quantisation_is_the_nearest_grid_point_inside_the_ball_and_the_box(eps, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (2, 3, 5, 5), generator=generator).float() / 255
    sign, size = (torch.rand(x.shape, generator=generator) for _ in range(2))
    delta = (sign - 0.5).sign() * eps * (1 - spread * size)
    x_adv = (x + delta).clamp(0, 1)
    q = quantize(x_adv, x, eps=eps)
    step = levels(q) - levels(x)
    assert torch.equal(q, (levels(q) / 255).float())
    assert step.abs().max() <= eps * 255 + 1e-5
    assert q.min() >= 0 and q.max() <= 1
    # One level closer to x_adv would be outside the ball, or there is none closer.
    wanted = x_adv.double() * 255
    closer = levels(q) + (wanted - levels(q)).sign()
    better = (closer - wanted).abs() < (levels(q) - wanted).abs() - 1e-4
    assert ((closer - levels(x)).abs()[better] > eps * 255 + 1e-5).all()


@settings(deadline=None, max_examples=40)
@given(
    norm=st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    size=st.floats(0.05, 40.0),
    seed=st.integers(0, 10**6),
)
def test_quantisation_in_a_finite_norm_goes_no_further_than_the_attack_did(norm, size, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (3, 3, 6, 6), generator=generator).float() / 255
    x_adv = (x + size / 255 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    far = torch.linalg.vector_norm((x_adv.double() - x.double()).flatten(1), norm, dim=1)
    eps = far.max().item()
    steps = levels(quantize(x_adv, x, eps=eps, norm=norm)) - levels(x)
    near = torch.linalg.vector_norm(steps.flatten(1) / 255, norm, dim=1)
    assert (near <= far * (1 + 1e-6)).all()
    # Rounding towards x everywhere would be safe as well, and wasteful.
    cut = levels(x) + ((x_adv.double() - x.double()) * 255).trunc()
    assert (steps.abs() >= (cut - levels(x)).abs() - 1).all()
    assert steps.abs().sum() >= (cut - levels(x)).abs().sum() - 1e-9


def test_a_small_l2_perturbation_survives_quantisation_where_rounding_to_nearest_would_erase_it():
    x = torch.full((1, 3, 32, 32), 100 / 255)
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    delta *= 0.02 / delta.norm()
    assert torch.equal(((x + delta) * 255).round(), levels(x).float())
    moved = quantize(x + delta, x, eps=0.02, norm=2) - x
    assert 0 < moved.norm() <= 0.02
    assert (moved * delta).sum() > 0


def test_quantisation_refuses_a_clean_image_off_the_grid():
    with pytest.raises(ValueError, match="expected an 8-bit image"):
        quantize(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5), eps=0.1)


def test_the_twenty_photographs_and_digits_come_with_their_labels(example_packages):
    files = sample_files("imagenet")
    assert [label for _, label in files[:4]] == [243, 559, 438, 990]
    x, y = samples("imagenet", 32)
    assert x.shape == (20, 3, 32, 32)
    assert y.tolist() == [label for _, label in files]
    digits, labels = samples("mnist")
    assert digits.shape == (20, 1, 28, 28)
    assert labels.tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1, 5, 9, 7, 3, 4]
