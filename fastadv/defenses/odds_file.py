"""The file of a detector: tensors as safetensors, settings as JSON in its metadata. Nothing in it is code."""

import errno
import json
import math
import os
from collections.abc import Mapping
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from fastadv._checks import is_real
from fastadv.attacks.attack import forward, undisturbed
from fastadv.models.digest import sha256
from fastadv.models.text import FAILURES, brief, printable

from .odds_correction import Correction

if TYPE_CHECKING:
    from .odds import OddsAreOdd

    Detector = TypeVar("Detector", bound=OddsAreOdd)

FORMAT = "fastadv.OddsAreOdd"
VERSION = 1
STATISTICS = ("counts", "mean", "std", "held_out")
AUTOCAST = {None: None, "float16": torch.float16, "bfloat16": torch.bfloat16}
CHANGEABLE = ("chunk", "autocast", "seed")
"""Settings that the statistics do not depend on."""
LARGEST = 2**28
"""No sample has more elements than this."""
SETTINGS = (
    "noise",
    "draws",
    "chunk",
    "bounds",
    "two_sided",
    "autocast",
    "seed",
    "cutoff",
    "input_shape",
)


class OddsFileError(ValueError):
    """A file is not that of a detector, or of another one; the message is one line that names it."""

    def __init__(self, path: str | PathLike[str], reason: object) -> None:
        """Name the file and say what is wrong with it."""
        super().__init__(printable(f"{os.fspath(path)}: {str(reason).partition(chr(10))[0]}"))


def save(detector: "OddsAreOdd", path: str | PathLike[str]) -> None:
    """Write a file whole or not at all; raises OSError."""
    settings = {name: getattr(detector, name) for name in SETTINGS}
    settings["autocast"] = next(name for name, dtype in AUTOCAST.items() if dtype == detector.autocast)
    tensors = {name: getattr(detector, name).cpu().contiguous() for name in STATISTICS}
    for t, correction in detector.corrections.items():
        tensors |= {f"correction.{t}.{name}": tensor for name, tensor in correction._asdict().items()}
    text = json.dumps(settings, default=lambda number: number.item())  # numpy's numbers, set by the user
    digest = sha256(tensors, text)
    metadata = {"format": FORMAT, "version": str(VERSION), "settings": text, "sha256": digest}
    if Path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    unfinished = Path(f"{os.fspath(path)}.{os.getpid()}.part")
    unfinished.write_bytes(serialize(tensors, metadata))
    os.replace(unfinished, path)


def load(
    cls: "type[Detector]", path: str | PathLike[str], model: nn.Module, changes: Mapping[str, Any]
) -> "Detector":
    """What `save` wrote, around a model and on its device; see `OddsAreOdd.load`."""
    others = ", ".join(name for name in changes if name not in CHANGEABLE)
    if others:
        raise TypeError(
            f"OddsAreOdd.load: only {', '.join(CHANGEABLE)} can be changed, got {printable(others)}"
        )
    settings, tensors = _read(path)
    try:
        cutoff, shape = _cutoff(settings.pop("cutoff")), _input_shape(settings.pop("input_shape"))
        settings["autocast"] = AUTOCAST[settings["autocast"]]
        cls(nn.Identity(), **settings)  # so that what is wrong with the file is told from wrong changes
        corrections = _corrections(tensors)
        _check(len(settings["noise"]), tensors, corrections)
    except Exception as error:  # nothing but what is in the file is at work here
        raise OddsFileError(path, f"settings or tensors are broken ({brief(error)})") from error
    detector = cls(model, **{**settings, **changes})
    detector.cutoff, detector.input_shape, detector.corrections = cutoff, shape, corrections
    device = _meet(path, detector, len(tensors["counts"]))
    for name in STATISTICS:
        setattr(detector, name, tensors[name].to(device))
    return detector


def _read(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a file of this version, on the CPU; otherwise unchecked.

    Raises:
        OSError: the file cannot be read.
        OddsFileError: it is none of this version, or not as it was written.
    """
    Path(path).open("rb").close()  # where it cannot be read, Python says why
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise OddsFileError(path, f"not a whole safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise OddsFileError(path, "a safetensors file, but not of an OddsAreOdd detector")
    if metadata.get("version") != str(VERSION):
        raise OddsFileError(
            path, f"has version {metadata.get('version')}, expected {VERSION}: fit the detector again"
        )
    text = metadata.get("settings", "")
    if metadata.get("sha256") != sha256(tensors, text):
        raise OddsFileError(path, "damaged: its content is not what its checksum says")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OddsFileError(path, f"settings are broken ({brief(error)})") from error
    if not isinstance(settings, dict) or settings.keys() != set(SETTINGS):
        raise OddsFileError(path, f"settings are broken (expected {', '.join(SETTINGS)})")
    return settings, tensors


def _meet(path: str | PathLike[str], detector: "OddsAreOdd", classes: int) -> torch.device:
    """See, by one grey sample, that the model takes such samples and has so many classes.

    Returns:
        The model's device.

    Raises:
        OddsFileError: it does not.
    """
    model, shape, (lower, upper) = detector.model, detector.input_shape, detector.bounds or (0.0, 0.0)
    example = next(chain(model.parameters(), model.buffers()), torch.empty(0))
    try:
        grey = torch.full((1, *shape), (lower + upper) / 2, dtype=example.dtype, device=example.device)
        with undisturbed(model), torch.no_grad():
            logits = forward("OddsAreOdd", model, detector.autocast)(grey)
    except FAILURES as error:
        raise OddsFileError(
            path, f"made for samples {list(shape)}, and the model fails on one: {brief(error)}"
        ) from error
    if logits.shape != (1, classes):
        raise OddsFileError(
            path, f"made for logits [1, {classes}] of one sample, and the model returns {list(logits.shape)}"
        )
    return example.device


def _cutoff(value: object) -> float:
    if not is_real(value) or math.isnan(value):
        raise ValueError(f"cutoff is {value!r}")
    return float(value)


def _input_shape(sizes: object) -> tuple[int, ...]:
    """The shape of a sample; ValueError for what is none."""
    if not isinstance(sizes, list) or not sizes or not all(type(size) is int and size >= 1 for size in sizes):
        raise ValueError("input_shape must have integers of at least 1")
    if math.prod(sizes) > LARGEST:
        raise ValueError(f"input_shape has more than {LARGEST} elements")
    return tuple(sizes)


def _corrections(tensors: dict[str, Tensor]) -> dict[int, Correction]:
    """Take the corrections out of the tensors."""
    names = [name for name in tensors if name.startswith("correction.")]
    parts: dict[int, dict[str, Tensor]] = {}
    for name in names:
        _, t, field = name.split(".")
        parts.setdefault(int(t), {})[field] = tensors.pop(name)
    return {t: Correction(**fields) for t, fields in parts.items()}


def _check(kinds: int, tensors: Mapping[str, Tensor], corrections: Mapping[int, Correction]) -> None:
    """Raise ValueError for tensors that do not fit together."""
    classes = len(tensors["counts"])
    wanted = {
        "counts": ((classes,), "torch.int64"),
        "mean": ((kinds, classes, classes), "torch.float64"),
        "std": ((kinds, classes, classes), "torch.float64"),
        "held_out": ((tensors["held_out"].numel(),), "torch.float64"),
    }
    for t, (labels, weight, bias) in corrections.items():
        known = 0 <= t < classes and bool(((labels >= 0) & (labels < classes)).all())
        shapes = (labels.numel(),), (labels.numel(), kinds * classes), (labels.numel(),)
        fits = labels.numel() > 0 and (labels.shape, weight.shape, bias.shape) == shapes
        kind = (labels.dtype, weight.dtype, bias.dtype) == (torch.int64, torch.float64, torch.float64)
        if not (known and fits and kind and weight.isfinite().all() and bias.isfinite().all()):
            raise ValueError(f"correction of class {t}")
    for name, (shape, dtype) in wanted.items():
        if tuple(tensors[name].shape) != shape or str(tensors[name].dtype) != dtype:
            raise ValueError(f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}")
    mean, std = tensors["mean"], tensors["std"]
    wrong = {
        "counts has fewer than 2 classes": classes < 2,
        "counts is negative": (tensors["counts"] < 0).any(),
        "mean is not finite": not mean.isfinite().all(),
        "std is not positive and finite": not (std.isnan() | (std > 0) & std.isfinite()).all(),
        "held_out is NaN": tensors["held_out"].isnan().any(),
    }
    for reason, found in wrong.items():
        if found:
            raise ValueError(reason)
