"""The command line: `fastadv info`, `attack`, `demo`, `detect`, `plot`."""

from .app import app

__all__ = ["app"]
