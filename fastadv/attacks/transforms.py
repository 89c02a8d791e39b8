"""What is done to inputs: random transforms for `EOT`, and preprocessors for `BPDA`.

A random transform maps (x [N, ...], randomness) to the transformed samples, each row by random numbers of its
own from the `Randomness`, all rows in one call. It is differentiable in x. A preprocessor maps x alone.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastadv._checks import NOISE_KINDS, Bounds, compute_dtype, is_integer, is_real
from fastadv.attacks.randomness import Randomness

RandomTransform = Callable[[Tensor, Randomness], Tensor]


@dataclass(frozen=True)
class Noise:
    """x plus independent noise in every element.

    Args:
        scale: in the units of x, >= 0: the standard deviation of "normal" noise, the largest size of
            "uniform" noise on (-scale, scale), the size of "sign" noise.
        kind: "normal", "uniform", or "sign": scale or -scale with equal odds.
        bounds: (lower, upper) to which the noisy samples are clamped, or None.
    """

    scale: float
    kind: Literal["normal", "uniform", "sign"] = "normal"
    bounds: Bounds = None

    def __post_init__(self) -> None:
        """Refuse fields out of range."""
        if not is_real(self.scale) or not 0 <= float(self.scale) < math.inf:
            raise ValueError(f"Noise: scale must be finite and at least 0, got {self.scale!r}")
        if self.kind not in NOISE_KINDS:
            raise ValueError(f"Noise: kind must be 'normal', 'uniform' or 'sign', got {self.kind!r}")
        if self.bounds is not None and (len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]):
            raise ValueError(f"Noise: bounds must be (lower, upper) with lower < upper, got {self.bounds}")

    def __call__(self, x: Tensor, randomness: Randomness) -> Tensor:
        """[N, ...] noisy samples in the dtype of x; the sum is taken in the compute dtype."""
        dtype = compute_dtype(x.dtype)
        draw = randomness.normal if self.kind == "normal" else randomness.symmetric
        noise = draw(*x.shape[1:], dtype=dtype)
        if self.kind == "sign":
            noise = noise.sign_()
        noisy = x.to(dtype) + noise.mul_(self.scale)
        if self.bounds is not None:
            noisy = noisy.clamp(*self.bounds)
        return noisy.to(x.dtype)


@dataclass(frozen=True)
class ResizePad:
    """Images resized to a random size and placed at random on a larger canvas.

    Xie, Wang, Zhang, Ren, Yuille, "Mitigating adversarial effects through randomization" (ICLR 2018): for
    images of 299 pixels `ResizePad(299, 331, fill=0.5)`. Bilinear, without antialiasing, as
    `F.interpolate` followed by `F.pad`.

    Args:
        smallest: the least height that an image is resized to, >= 1. The width keeps its proportion to the
            height, rounded to whole pixels.
        largest: the height of the canvas, > smallest: heights are uniform in smallest .. largest - 1.
            The canvas has the proportions of x.
        fill: the value around the image; finite.
    """

    smallest: int
    largest: int
    fill: float = 0.5

    def __post_init__(self) -> None:
        """Refuse fields out of range."""
        _check_integer("ResizePad", "smallest", self.smallest, 1)
        _check_integer("ResizePad", "largest", self.largest, self.smallest + 1)
        _check_fill("ResizePad", self.fill)

    def __call__(self, x: Tensor, randomness: Randomness) -> Tensor:
        """[N, C, H, W] -> [N, C, largest, round(largest * W / H)]."""
        _check_images("ResizePad", x)
        shape = x.shape[2], x.shape[3]
        canvas = self.largest, round(self.largest * shape[1] / shape[0])
        height = self.smallest + randomness.below(self.largest - self.smallest)
        resized = height, (height * (shape[1] / shape[0])).round_().clamp_(1, canvas[1])
        scale = [old / new for old, new in zip(shape, resized, strict=True)]
        start = [
            -randomness.below(full - new + 1) * s for full, new, s in zip(canvas, resized, scale, strict=True)
        ]
        return _resample(x, canvas, start, scale, self.fill)


@dataclass(frozen=True)
class Crop:
    """A square window at a random place of the padded image, optionally enlarged to the image's size.

    `Crop(32, padding=4)` shifts images of 32 pixels by up to 4; `Crop(90, resize=True)` is the cropping of
    Guo, Rana, Cisse, van der Maaten, "Countering adversarial images using input transformations" (ICLR 2018)
    where images have more than 90 pixels.

    Args:
        size: height and width of the window, >= 1 and no larger than the padded image.
        padding: pixels added on every side, >= 0.
        resize: scale the window to the height and width of x, bilinearly; values are interpolated between
            pixels of x only, and the padding begins where x ends.
        fill: the value of the padding; finite.
    """

    size: int
    padding: int = 0
    resize: bool = False
    fill: float = 0.0

    def __post_init__(self) -> None:
        """Refuse fields out of range."""
        _check_integer("Crop", "size", self.size, 1)
        _check_integer("Crop", "padding", self.padding, 0)
        _check_fill("Crop", self.fill)

    def __call__(self, x: Tensor, randomness: Randomness) -> Tensor:
        """[N, C, H, W] -> [N, C, size, size], or the shape of x with `resize`."""
        _check_images("Crop", x)
        shape = x.shape[2], x.shape[3]
        if min(shape) + 2 * self.padding < self.size:
            raise ValueError(
                f"Crop: size {self.size} is larger than the padded image, {list(shape)} + 2 * {self.padding}"
            )
        out = shape if self.resize else (self.size, self.size)
        start = [randomness.below(full + 2 * self.padding - self.size + 1) - self.padding for full in shape]
        scale = [torch.full_like(s, self.size / new) for s, new in zip(start, out, strict=True)]
        return _resample(x, out, start, scale, self.fill)


@dataclass(frozen=True)
class JPEG:
    """Images compressed and decompressed as JPEG, by Pillow on the CPU: not differentiable.

    Args:
        quality: 1 .. 95, as Pillow's.
    """

    quality: int = 75

    def __post_init__(self) -> None:
        """Refuse fields out of range."""
        _check_integer("JPEG", "quality", self.quality, 1)
        if self.quality > 95:
            raise ValueError(f"JPEG: quality must be at most 95, got {self.quality}")

    def __call__(self, x: Tensor) -> Tensor:
        """[N, C, H, W] with C 1 or 3, clamped to [0, 1] -> the same in multiples of 1/255."""
        _check_images("JPEG", x)
        if x.shape[1] not in (1, 3):
            raise ValueError(f"JPEG: x must have 1 or 3 channels, got {x.shape[1]}")
        pixels = (x.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
        images = np.stack([self._compressed(image) for image in pixels.numpy()]) if len(x) else pixels.numpy()
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(x.device, x.dtype) / 255

    def _compressed(self, pixels: np.ndarray) -> np.ndarray:
        """[H, W, C] uint8 after compression."""
        buffer = io.BytesIO()
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image.save(buffer, "JPEG", quality=self.quality)
        return np.asarray(Image.open(buffer)).reshape(pixels.shape)


@dataclass(frozen=True)
class BitDepth:
    """x rounded to the 2^bits equally spaced levels of [0, 1]: its derivative is 0 almost everywhere.

    Xu, Evans, Qi, "Feature squeezing" (NDSS 2018), section 3.1.

    Args:
        bits: 1 .. 8.
    """

    bits: int

    def __post_init__(self) -> None:
        """Refuse fields out of range."""
        _check_integer("BitDepth", "bits", self.bits, 1)
        if self.bits > 8:
            raise ValueError(f"BitDepth: bits must be at most 8, got {self.bits}")

    def __call__(self, x: Tensor) -> Tensor:
        """[...] clamped to [0, 1] -> multiples of 1 / (2^bits - 1), in the dtype of x."""
        steps = 2**self.bits - 1
        return (x.clamp(0, 1) * steps).round() / steps


def _resample(
    x: Tensor, out: tuple[int, int], start: list[Tensor], scale: list[Tensor], fill: float
) -> Tensor:
    """[N, C, *out] windows of images [N, C, H, W], bilinear, `fill` beyond the image's edges.

    Pixel i along an axis covers start + [i, i + 1] * scale of the image, where start and scale are [N] in
    pixels. The resampling is two products with matrices, and so is its derivative: each element is a
    sum in a fixed order, where scattered gradients would meet in any order on a GPU.
    """
    dtype = compute_dtype(x.dtype)
    weights, inside = [], []
    for size, length, first, step in zip(x.shape[2:], out, start, scale, strict=True):
        centres = torch.arange(length, device=x.device) + 0.5
        source = first[:, None] + centres * step[:, None] - 0.5
        inside.append((source >= -0.5) & (source < size - 0.5))
        pixels = torch.arange(size, device=x.device)
        weights.append(1 - (source.clamp(0, size - 1)[:, :, None] - pixels).abs())  # hats around the pixels
    vertical, horizontal = (weight.clamp_(min=0).to(dtype)[:, None] for weight in weights)
    window = vertical @ x.to(dtype) @ horizontal.mT
    visible = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(visible, window, fill).to(x.dtype)


def _check_images(name: str, x: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"{name}: x must be images [N, C, H, W], got shape {list(x.shape)}")


def _check_integer(name: str, field: str, value: int, least: int) -> None:
    if not is_integer(value) or value < least:
        raise ValueError(f"{name}: {field} must be an integer of at least {least}, got {value!r}")


def _check_fill(name: str, fill: float) -> None:
    if not is_real(fill) or not math.isfinite(fill):
        raise ValueError(f"{name}: fill must be a finite number, got {fill!r}")
