"""Fast, trustworthy adversarial robustness for PyTorch."""

__version__ = "0.1.0"

from fastadv import models, ops
from fastadv._library import backend, build_info
from fastadv.attacks import FGSM, PGD, AttackResult, Autograd, StepDecay

__all__ = ["FGSM", "PGD", "AttackResult", "Autograd", "StepDecay", "backend", "build_info", "models", "ops"]
