"""The command line: `fastadv info`, `fastadv attack`, `fastadv demo`, `fastadv plot`."""

from .app import app

__all__ = ["app"]
