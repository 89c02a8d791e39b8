"""Batches in an order that a generator draws, cut into a part for each process."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from . import distributed


class SplitBatches(Sampler[list[int]]):
    """The indices of each batch, of which every process gets its part: a `batch_sampler` of a DataLoader.

    A batch is the same however many processes there are; process r of n takes every n-th of its samples
    from the r-th on. Where a batch has fewer samples than there are processes, some get an empty part.

    Args:
        samples: how many there are, at least 1.
        batch_size: of a whole batch; the last of a pass may be smaller.
        generator: draws the order anew in each pass; None leaves the samples in order.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(self, samples: int, batch_size: int, generator: torch.Generator | None = None) -> None:
        """Refuse numbers below 1."""
        if min(samples, batch_size) < 1:
            raise ValueError(
                f"SplitBatches: samples and batch_size must be at least 1, got {samples} and {batch_size}"
            )
        self.samples = samples
        self.batch_size = batch_size
        self.generator = generator

    def __iter__(self) -> Iterator[list[int]]:
        """This process's part of each batch."""
        if self.generator is None:
            order = torch.arange(self.samples)
        else:
            order = torch.randperm(self.samples, generator=self.generator)
        for batch in order.split(self.batch_size):
            yield batch[distributed.rank() :: distributed.world()].tolist()

    def __len__(self) -> int:
        """Batches of a pass."""
        return -(-self.samples // self.batch_size)


class TensorBatches:
    """Batches (x, y, ids) of samples that are in memory, each process's part as in `SplitBatches`.

    Args:
        x: [N, ...] samples.
        y: [N] int64 classes.
        batch_size: of a whole batch.
        generator: draws the order anew in each pass; None leaves the samples in order.
        ids: give each sample's place among all as well, so that an attack's random start is the sample's own
            however batches are cut. False gives (x, y), and starts go by the place in the batch.

    Raises:
        ValueError: x and y are not of one length, at least 1, or the batch size is below 1.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        generator: torch.Generator | None = None,
        *,
        ids: bool = True,
    ) -> None:
        """Refuse what does not fit together."""
        if len(x) != len(y):
            raise ValueError(f"TensorBatches: x and y must be of one length, got {len(x)} and {len(y)}")
        self.x = x
        self.y = y
        self.ids = ids
        self.parts = SplitBatches(len(x), batch_size, generator)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """This process's part of each batch."""
        for part in self.parts:
            ids = torch.tensor(part, dtype=torch.int64, device=self.x.device)
            yield self.x[ids], self.y[ids], *([ids] if self.ids else [])

    def __len__(self) -> int:
        """Batches of a pass."""
        return len(self.parts)


class Numbered(Dataset[tuple[Any, Any, int]]):
    """A dataset of (x, y) that says each sample's number as well: (x, y, number).

    For several processes: DataLoader(numbered, batch_sampler=SplitBatches(...), collate_fn=numbered.collate).
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        """The dataset as it is, with numbers."""
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        """A sample, its class and its number."""
        x, y = self.dataset[index][:2]
        return x, y, index

    def collate(self, samples: list[tuple[Any, Any, int]]) -> list[Tensor]:
        """A batch of these samples; of none as well, for a process that has no part of a batch."""
        if samples:
            return default_collate(samples)
        return [part[:0] for part in default_collate([self[0]])]

    def __len__(self) -> int:
        """How many samples."""
        return len(self.dataset)  # type: ignore[arg-type]
