"""Loads the compiled kernels and chooses between them and the reference.

`fastadv._C` holds the schemas and the CPU kernels, `fastadv._C_cuda` the CUDA kernels; either may be
absent.
"""

import json
import os
import platform
from pathlib import Path

import torch
from torch import Tensor

from fastadv import _registration

BACKENDS = ("auto", "native", "reference")
_PACKAGE = Path(__file__).parent


def _load(stem: str) -> bool:
    """Load a compiled library of this package; False if it was not built. A broken one raises."""
    for path in sorted(_PACKAGE.glob(f"{stem}.*so")):
        torch.ops.load_library(path)
        return True
    return False


# Which devices have native kernels. The CUDA library links libtorch_cuda, so CPU builds of torch skip it.
_has_cpu = _load("_C")
_has_cuda = _has_cpu and torch.version.cuda is not None and _load("_C_cuda")
_native_devices = frozenset(["cpu"] * _has_cpu + ["cuda"] * _has_cuda)
_choice = "auto"


def backend(choice: str | None = None) -> str:
    """Choose between the native kernels and the PyTorch reference, for the whole process.

    Args:
        choice: "auto" (the kernels of a tensor's device where they were built, the reference elsewhere),
            "native" (an error where they were not), "reference", or None to change nothing. The
            environment variable FASTADV_BACKEND sets the choice at import.

    Returns:
        What CPU tensors get now: "native" or "reference".

    Raises:
        ValueError: the choice is none of these.
        RuntimeError: "native" was chosen but no kernels were built.
    """
    global _choice
    if choice is not None:
        if choice not in BACKENDS:
            raise ValueError(f"fastadv.backend: choice must be one of {', '.join(BACKENDS)}, got {choice!r}")
        if choice == "native" and not _has_cpu:
            raise RuntimeError(
                "fastadv.backend: native kernels were not built: reinstall with a C++ compiler, or use 'auto'"
            )
        _choice = choice
    return "native" if _choice != "reference" and _has_cpu else "reference"


def is_native(tensor: Tensor) -> bool:
    """Whether an operator on this tensor runs in a compiled kernel, by the choice in force."""
    if _choice == "reference":
        return False
    if tensor.device.type in _native_devices:
        return True
    if _choice == "native":
        raise RuntimeError(
            f"fastadv: no native kernels for {tensor.device.type} tensors: they were not built; "
            "use backend('auto') or 'reference'"
        )
    return False


def build_info() -> dict[str, str]:
    """What runs here, in the order in which `fastadv info` prints it."""
    from fastadv import __version__

    built = json.loads((_PACKAGE / "_build.json").read_text()) if (_PACKAGE / "_build.json").exists() else {}
    cuda = torch.cuda.is_available()
    return {
        "fastadv": __version__,
        "backend": f"{backend()} (choice: {_choice})",
        "kernels": ", ".join(sorted(_native_devices)) or "none built: PyTorch reference",
        "simd": torch.ops.fastadv._simd_level() if _has_cpu else "none",
        "cuda_archs": built.get("cuda_archs") or "none built",
        "torch": f"{torch.__version__}, intra-op threads: {torch.get_num_threads()}",
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
    }


if _has_cpu:
    _registrations = _registration.register()
backend(os.environ.get("FASTADV_BACKEND") or None)
