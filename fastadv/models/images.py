"""Images for the models: read from files, written to files, and put back on the grid of 8 bits.

An image here is a float32 tensor [C, H, W] in [0, 1], C = 3 (RGB) or 1 (grey).
"""

import math
import os
import re
import stat
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ._packages import ModelError, package_files
from .text import printable

LEVELS = 255


class ImageError(ValueError):
    """A file is not an image that can be read; the message is one line that names it."""

    def __init__(self, path: str | Path, reason: str | None = None) -> None:
        """Name the file and say what is wrong with it; or give a whole message, as pickle and torch do.

        What was raised in a worker of a DataLoader torch makes anew from the text of its traceback, of which
        the last line is the message.
        """
        if reason is None:
            name = f"{type(self).__module__}.{type(self).__qualname__}: "
            message = str(path).rstrip("\n").rpartition("\n")[2].removeprefix(name)
        else:
            message = f"{path}: {reason}"
        super().__init__(printable(message))


def load_image(path: str | Path, size: int | tuple[int, int] | None = None, *, channels: int = 3) -> Tensor:
    """Read a JPEG or PNG of any kind: RGB, grey, palette, CMYK, 16 bits, transparent, rotated by EXIF.

    Transparent images are laid on white.

    Args:
        path: the file.
        size: height and width (one number: both). The image is resized (bicubic, antialiased) until it just
            covers them, and its centre is cut out; a file of that very size comes back as it is, and with
            None so does any.
        channels: 3 for RGB, 1 for grey.

    Returns:
        [channels, H, W] float32 in [0, 1], every value a multiple of 1/255.

    Raises:
        ImageError: no such file, not a regular one, not a JPEG or PNG, or a broken one.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            # Opening a pipe or a terminal would wait for whoever writes to it.
            raise OSError("not a regular file")
        # Only these two: other formats bring decoders that start programs.
        with Image.open(path, formats=("JPEG", "PNG")) as file:
            image = _eight_bits(ImageOps.exif_transpose(file), "RGB" if channels == 3 else "L")
    except UnidentifiedImageError as error:
        raise ImageError(path, "not a JPEG or PNG image") from error
    except FileNotFoundError as error:
        raise ImageError(path, "no such file") from error
    except Exception as error:  # decoders raise nearly anything on a broken file
        raise ImageError(path, f"cannot be read ({str(error) or type(error).__name__})") from error
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, channels)
    return pixels.permute(2, 0, 1).float().div(LEVELS)


def save_png(image: Tensor, path: str | Path) -> None:
    """Write an image [C, H, W] in [0, 1], C = 1 or 3, as an 8-bit PNG.

    Nothing is lost: the image must be made of multiples of 1/255 (see `quantize`).

    Raises:
        ValueError: it is not, or the shape is another one.
    """
    if image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"save_png: expected [1 or 3, H, W], got {list(image.shape)}")
    array = levels(image).to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(array.squeeze(-1) if image.shape[0] == 1 else array).save(path, format="PNG")


def levels(image: Tensor) -> Tensor:
    """The whole numbers 0 to 255, in float64, that an 8-bit image is made of.

    Raises:
        ValueError: some value is no multiple of 1/255 in [0, 1].
    """
    scaled = image.detach().double() * LEVELS
    rounded = scaled.round()
    if not bool(
        ((scaled - rounded).abs() < 1e-3).all() and (rounded >= 0).all() and (rounded <= LEVELS).all()
    ):
        raise ValueError(
            "expected an 8-bit image: multiples of 1/255 in [0, 1], as of load_image or quantize"
        )
    return rounded


def quantize(x_adv: Tensor, x: Tensor, *, eps: float, norm: float = math.inf) -> Tensor:
    """Round an adversarial image to 8 bits without leaving the ball it was found in.

    For linf every value goes to the nearest multiple of 1/255 that is within eps of x. For a finite norm
    that freedom is shared: values are rounded away from x from a fraction of a level upwards, the same
    fraction for the whole sample, and it is the smallest that keeps ||q - x|| <= min(eps, ||x_adv - x||).
    For norm 0 every value goes to the nearest one.

    Args:
        x_adv, x: [B, C, H, W] in [0, 1]; x made of multiples of 1/255, as `load_image` returns it.
        eps: the ball's radius, in the units of x.
        norm: 0, inf, or at least 1.

    Returns:
        [B, C, H, W] on the grid, in x's dtype, in [0, 1] and in the ball.

    Raises:
        ValueError: x is not on the grid.
    """
    origin = levels(x)
    delta = x_adv.double() * LEVELS - origin
    if math.isinf(norm):
        # The least excess tolerated is what a float32 cannot tell from eps itself.
        reach = math.floor(eps * LEVELS + 1e-5)
        steps = delta.round().clamp(-reach, reach)
    elif norm == 0:
        steps = delta.round()  # what did not change does not
    else:
        steps = _round_within(delta, norm, eps * LEVELS)
    return ((origin + steps).clamp(0, LEVELS) / LEVELS).to(x.dtype)


def _round_within(delta: Tensor, norm: float, radius: float) -> Tensor:
    """Whole steps for `delta` [B, ...], rounded up from the smallest fraction that keeps the norm."""
    size = delta.abs().flatten(1)
    budget = torch.linalg.vector_norm(size, norm, dim=1, keepdim=True).clamp(max=radius)
    # At a fraction of 1 every value is cut towards zero, which is within the budget; bisect below it.
    low, high = torch.zeros_like(budget), torch.ones_like(budget)
    for _ in range(40):
        middle = (low + high) / 2
        fits = torch.linalg.vector_norm((size + 1 - middle).floor(), norm, dim=1, keepdim=True) <= budget
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return ((size + 1 - high).floor().view_as(delta)) * delta.sign()


def sample_files(data: Literal["imagenet", "mnist"]) -> list[tuple[Path, int]]:
    """The 20 images with their true labels that the installed package foolbox carries, in order.

    Raises:
        ModelError: that package is not installed, or carries none.
    """
    pattern = re.compile(rf"{data}_\d+_(\d+)\.(?:jpg|png)")
    matches = [(path, pattern.fullmatch(path.name)) for path in package_files("foolbox")]
    files = [(path, int(match[1])) for path, match in matches if match and path.is_file()]
    if not files:
        raise ModelError(f"the installed package foolbox carries no {data} images")
    return files


def samples(data: Literal["imagenet", "mnist"], size: int | None = None) -> tuple[Tensor, Tensor]:
    """The images of `sample_files` as a batch.

    Args:
        size: height and width; None takes the model's usual 224 (imagenet) or 28 (mnist).

    Returns:
        images [20, 3, size, size] (mnist: [20, 1, size, size]) float32 in [0, 1], labels [20] int64.
    """
    files = sample_files(data)
    channels, usual = (3, 224) if data == "imagenet" else (1, 28)
    images = torch.stack([load_image(path, size or usual, channels=channels) for path, _ in files])
    return images, torch.tensor([label for _, label in files])


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """`image` in 8-bit `mode`, "L" or "RGB"."""
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
