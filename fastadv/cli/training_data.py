"""What `fastadv train` trains on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from torch.utils.data import DataLoader, Subset

from fastadv.defenses.adversarial_training import Numbered, SplitBatches, TensorBatches
from fastadv.models import ModelError
from fastadv.models.datasets import CLASSES, DEBIAN_FASHION_MNIST, SIZE, Images, digits, fashion_mnist, split
from fastadv.models.folder import image_folder

from .options import Net


@dataclass(frozen=True)
class Data:
    """Samples to train on and samples to validate with, and how they come.

    Attributes:
        trained, held_out: in memory as `Images`, or read from files sample by sample.
        count: how many are trained on.
        batch_size: of a whole batch, whatever the number of processes.
        workers: processes that read files.
        remark: what to look at twice, in one line: the first class with another name than the model has.
    """

    trained: Images | Numbered
    held_out: Images | Numbered
    count: int
    batch_size: int
    workers: int
    remark: str | None = None

    def batches(self, generator: torch.Generator) -> Iterable[tuple[torch.Tensor, ...]]:
        """The samples to train on, in an order that the generator draws."""
        return self._loader(self.trained, generator)

    def validation(self) -> Iterable[tuple[torch.Tensor, ...]]:
        """The samples to validate with, in order."""
        return self._loader(self.held_out, None)

    def _loader(
        self, samples: Images | Numbered, generator: torch.Generator | None
    ) -> Iterable[tuple[torch.Tensor, ...]]:
        if isinstance(samples, Images):
            return TensorBatches(samples.x, samples.y, self.batch_size, generator)
        order = SplitBatches(len(samples), self.batch_size, generator)
        # With no generator of its own a DataLoader would draw from the global one.
        own = torch.Generator().manual_seed(0) if generator is None else generator
        return DataLoader(
            samples,
            batch_sampler=order,
            num_workers=self.workers,
            collate_fn=samples.collate,
            generator=own,
        )


def is_idx(folder: Path) -> bool:
    """Whether a folder holds the files of Fashion-MNIST, or of MNIST."""
    return any((folder / f"train-images-idx3-ubyte{end}").is_file() for end in ("", ".gz"))


def load_data(source: str, net: Net, held_out: int, seed: int, batch_size: int, workers: int) -> Data:
    """The data that `source` means: "digits", "fashion-mnist", a folder of such files, or one of images.

    Raises:
        typer.BadParameter: there is none, it is too small, or the model does not take it.
    """
    try:
        if source in ("digits", "fashion-mnist") or is_idx(Path(source)):
            _check_fit(source, net, (1, SIZE, SIZE), CLASSES)
            if source == "digits":
                images = digits()
            else:
                images = fashion_mnist("train", DEBIAN_FASHION_MNIST if source == "fashion-mnist" else source)
            _check_held_out(held_out, len(images.y))
            trained, kept = split(images, held_out, seed=seed)
            return Data(trained, kept, len(trained.y), batch_size, workers)
        folder = image_folder(source, net.shape)
    except ModelError as error:
        raise typer.BadParameter(f"--data: {error}") from error
    _check_fit(source, net, net.shape, len(folder.class_names))
    remark = _compare_names(source, net.class_names, folder.class_names)
    _check_held_out(held_out, folder.size)
    order = torch.randperm(folder.size, generator=torch.Generator().manual_seed(seed)).tolist()
    parts = [Numbered(Subset(folder.images, numbers)) for numbers in (order[held_out:], order[:held_out])]
    return Data(parts[0], parts[1], folder.size - held_out, batch_size, workers, remark)


def _check_fit(source: str, net: Net, shape: tuple[int, int, int], classes: int) -> None:
    if net.shape != shape:
        raise typer.BadParameter(
            f"--model: {source} has images {list(shape)}, this model's are {list(net.shape)}"
        )
    if net.classes != classes:
        raise typer.BadParameter(f"--model: {source} has {classes} classes, this model {net.classes}")


def _compare_names(source: str, names: Sequence[str], folders: Sequence[str]) -> str | None:
    """What is to be said of a folder's classes, which go by number, where the model calls them otherwise.

    Names may be others for the same, such as ImageNet's n01440764 for tench; the same names in another order
    may not.

    Raises:
        typer.BadParameter: a class has the name that the model gives to another one.
    """
    others = [
        (label, folder, name)
        for label, (folder, name) in enumerate(zip(folders, names, strict=False))
        if folder != name
    ]
    for label, folder, name in others:
        if folder in names:
            raise typer.BadParameter(
                f"--model: class {label} is {folder} in {source} and {name} in the model, whose {folder} is "
                f"class {names.index(folder)}: its class_names must be in the folders' alphabetical order"
            )
    if not others:
        return None
    label, folder, name = others[0]
    return f"classes go by number: class {label} is {folder} in {source} and {name} in the model"


def _check_held_out(held_out: int, samples: int) -> None:
    if held_out >= samples:
        raise typer.BadParameter(
            f"--validation: must leave something to train on, there are {samples} samples"
        )
