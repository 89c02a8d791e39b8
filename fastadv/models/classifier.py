"""A classifier that takes images as they are: its normalisation is part of the model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Maps an image to (x - mean) / std, channel by channel.

    An attack's eps and bounds are in the units of the image, so whatever a network wants done to its
    input belongs inside the model that is attacked, not in front of it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """The constants become buffers, which follow the model's device and dtype.

        Args:
            mean, std: one value for each channel, in the units of x; `std` is positive.

        Raises:
            ValueError: they differ in length, or `std` is not positive.
        """
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise ValueError(
                f"Normalize: expected one mean and std per channel, got {len(mean)} and {len(std)}"
            )
        if min(std) <= 0:
            raise ValueError(f"Normalize: std must be positive, got {list(std)}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images [..., C, H, W] of any floating dtype -> the same, normalised.

        A half-precision image is promoted to the constants' precision, so under autocast nothing is lost.

        Raises:
            ValueError: x has another number of channels.
        """
        channels = self.mean.numel()
        if x.dim() < 3 or x.shape[-3] != channels:
            raise ValueError(f"Normalize: expected [..., {channels}, H, W], got {list(x.shape)}")
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """The constants, for `print(model)`."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


class Classifier(nn.Module):
    """A network behind its normalisation, with what is needed to show images to it and to read its answer."""

    def __init__(
        self,
        network: nn.Module,
        normalize: Normalize | None = None,
        *,
        input_shape: tuple[int, int, int],
        class_names: Sequence[str] = (),
    ) -> None:
        """Put `normalize` in front of `network`.

        Args:
            network: normalised images [B, C, H, W] -> logits [B, K].
            normalize: applied first; None leaves the image as it is.
            input_shape: (C, H, W) of the images it is meant for.
            class_names: K names; empty where the classes have none.
        """
        super().__init__()
        self.normalize = normalize if normalize is not None else nn.Identity()
        self.network = network
        self.input_shape = input_shape
        self.class_names = tuple(class_names)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] -> logits [B, K]."""
        logits: Tensor = self.network(self.normalize(x))
        return logits
