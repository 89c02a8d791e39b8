"""Carlini and Wagner's search for the smallest perturbation, in l2, linf and l0: the survey's section 7."""

from fastadv.attacks.carlini_wagner.attack import CarliniWagner

__all__ = ["CarliniWagner"]
