"""Attacks: frozen configurations that, called with a model and samples, return adversarial samples."""

from fastadv.attacks.attack import AttackResult
from fastadv.attacks.fgsm import FGSM
from fastadv.attacks.gradients import Autograd
from fastadv.attacks.pgd import PGD
from fastadv.attacks.schedules import StepDecay

__all__ = ["FGSM", "PGD", "AttackResult", "Autograd", "StepDecay"]
