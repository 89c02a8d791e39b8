"""`fastadv info`."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

import fastadv


def info() -> None:
    """Show what is installed: version, kernels in force, SIMD level, CUDA architectures, torch, device."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in fastadv.build_info().items():
        table.add_row(key, Text(value))
    Console().print(table)
