"""What measured figures belong to: the machine, its software, and the state of the source tree."""

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]


def slug(name: str) -> str:
    """A name as part of a file name: "NVIDIA H100 80GB HBM3" -> "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def describe_cpu(name: str, simd: str) -> dict[str, Any]:
    """The CPU as the figures' file names it; `simd` is the level of the kernels."""
    threads = torch.get_num_threads()
    return {
        "kind": f"cpu-{platform.machine()}-{slug(simd.replace('-', ''))}-{threads}threads",
        "cpu": name,
        "simd": simd,
        "threads": threads,
    }


def describe_gpu() -> dict[str, Any]:
    """The GPU and what drives it."""
    gpu = torch.cuda.get_device_properties()
    return {
        "kind": slug(gpu.name),
        "gpu": gpu.name,
        "compute_capability": f"{gpu.major}.{gpu.minor}",
        "multiprocessors": gpu.multi_processor_count,
        "l2_bytes": gpu.L2_cache_size,
        "memory_bytes": gpu.total_memory,
        "driver": driver_version(),
        "cuda": torch.version.cuda,
    }


def describe_software() -> dict[str, Any]:
    """PyTorch and Python."""
    return {"torch": torch.__version__, "python": platform.python_version()}


def driver_version() -> str:
    """The version of NVIDIA's driver, or why it is not known."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {type(error).__name__} from nvidia-smi"


def source_state() -> dict[str, Any]:
    """{"commit", "clean"} of the source tree; FASTADV_COMMIT and None for a copy that git cannot tell of."""
    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "clean": git("status", "--porcelain") == ""}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": os.environ.get("FASTADV_COMMIT", "unknown"), "clean": None}


def git(*arguments: str) -> str:
    """What git says of the source tree itself, not of a repository that happens to be around it."""
    command = ["git", "--git-dir", str(ROOT / ".git"), "--work-tree", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
