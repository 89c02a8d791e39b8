"""One line for whatever a user got wrong, and the exit code 2."""

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from fastadv.models.text import printable


class OneLineErrors(TyperGroup):
    """A command group that reports bad usage in one line; typer would draw a box and repeat the usage."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; in standalone mode, as from a shell, exit with its code."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        try:
            # A command that ends early returns its exit code here, any other returns None.
            sys.exit(super().main(args, prog_name, complete_var, False, windows_expand_args, **extra))
        except typer.TyperException as error:
            if message := error.format_message():
                typer.echo(f"fastadv: {printable(message)}", err=True)
            sys.exit(error.exit_code)
        except typer.Abort:
            sys.exit(130)
