"""The command line: `fastadv info`, `attack`, `demo`, `curve`, `detect`, `train`, `plot`."""

from .app import app

__all__ = ["app"]
