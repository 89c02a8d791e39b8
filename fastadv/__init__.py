"""Fast, trustworthy adversarial robustness for PyTorch."""

__version__ = "0.1.0"

from fastadv import ops
from fastadv._library import backend, build_info

__all__ = ["backend", "build_info", "ops"]
