"""A checksum of tensors, to tell whether they are those of an earlier time."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def sha256(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """The SHA-256 of named tensors in any order, and of a text that goes with them, in hexadecimal.

    Names, dtypes and shapes count; devices and memory formats do not.
    """
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
