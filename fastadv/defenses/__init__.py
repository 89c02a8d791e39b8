"""Defences: what makes a model harder to attack, or seem so."""

from .convert import convert, functional_relus
from .kwta import KWTA, set_gamma
from .patterns import activation_pattern

__all__ = ["KWTA", "activation_pattern", "convert", "functional_relus", "set_gamma"]
