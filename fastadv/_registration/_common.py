"""What the rules of operators share."""

from collections.abc import Callable
from typing import Any

Fakes = dict[str, Callable[..., Any]]
Derivatives = dict[str, tuple[Callable[..., Any], Callable[..., None] | None]]  # backward, setup_context
