"""The file that a training goes on from: written whole or not at all, and refused if it is anything else."""

import hashlib
import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from fastadv.models.text import difference

HEADER = re.compile(rb"fastadv training checkpoint 1, sha256 ([0-9a-f]{64})\n")
HEADER_LENGTH = len(b"fastadv training checkpoint 1, sha256 \n") + 64


class CheckpointError(RuntimeError):
    """A file is no checkpoint, a damaged one, or that of another training; the message is one line."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace the file by one with this content; whoever is killed in between leaves the earlier one.

    Args:
        path: the file. A file of the same name with ".part" at its end is written first.
        content: tensors, numbers, strings, and dicts and lists of such.

    Raises:
        OSError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("wb") as file:
        file.write(f"fastadv training checkpoint 1, sha256 {digest}\n".encode())
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # or a loss of power might leave the new name with no content
    os.replace(unfinished, path)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote, tensors on the CPU. Nothing but data is unpickled (weights_only=True).

    Raises:
        CheckpointError: the file is no checkpoint, or not as it was written.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = HEADER.fullmatch(file.read(HEADER_LENGTH))
        if header is None:
            raise CheckpointError(f"{path} is no checkpoint of fastadv")
        rest = file.read()
    if hashlib.sha256(rest).hexdigest() != header[1].decode():
        raise CheckpointError(f"{path} is damaged or cut short: it is not what was written")
    try:
        content = torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"{path} holds more than data and is not read") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} and is no checkpoint of fastadv")
    return content


def check_fit(path: Path, what: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse a state whose entries are others, or of other shapes, than those expected.

    Raises:
        CheckpointError: names the first that differs.
    """
    for name in [*expected, *found]:
        wanted, got = (_shape(state, name) for state in (expected, found))
        if wanted != got:
            raise CheckpointError(f"{path}: of another {what}: {name} is {wanted} here and {got} there")


def _shape(state: dict[str, Any], name: str) -> str:
    if name not in state:
        return "missing"
    value = state[name]
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "dict" if isinstance(value, dict) else type(value).__name__


def check_settings(path: Path, expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse a training with other settings.

    Raises:
        CheckpointError: names the first that differs.
    """
    if other := difference(expected, found):
        raise CheckpointError(f"{path}: of another training: {other}")
