"""The command line: `fastadv info`, `fastadv attack`, `fastadv demo`."""

from .app import app

__all__ = ["app"]
