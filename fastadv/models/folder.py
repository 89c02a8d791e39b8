"""Images of a user's own to train on: a folder with a folder for each class."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from ._packages import ModelError, torchvision
from .images import load_image
from .text import brief, printable


class Folder(NamedTuple):
    """What is in a folder.

    Attributes:
        images: (image [C, H, W] float32 in [0, 1], class) by number, each read when it is asked for.
        size: how many.
        class_names: the classes' folders, in alphabetical order.
    """

    images: Dataset[tuple[Tensor, int]]
    size: int
    class_names: list[str]


def image_folder(path: str | Path, shape: tuple[int, int, int]) -> Folder:
    """The JPEG and PNG files in `path/class/`, read by `load_image`; torchvision's ImageFolder lists them.

    Args:
        path: of the folder.
        shape: (C, H, W) of the images: they are resized to cover it, and their centre is cut out.

    Raises:
        ModelError: torchvision is not installed; there is no such folder, no class in it, or a class without
            images.
    """
    channels, height, width = shape
    read = partial(load_image, size=(height, width), channels=channels)
    try:
        images = torchvision("datasets").ImageFolder(str(path), loader=read, is_valid_file=_is_image)
    except OSError as error:
        raise ModelError(printable(f"{path}: no images in folders by class: {brief(error)}")) from error
    return Folder(images, len(images), list(images.classes))


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in (".jpg", ".jpeg", ".png")
