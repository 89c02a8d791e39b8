"""Fast, trustworthy adversarial robustness for PyTorch."""

__version__ = "0.1.0"

from fastadv import defenses, models, ops
from fastadv._library import backend, build_info
from fastadv.attacks import (
    BPDA,
    EOT,
    FGSM,
    PGD,
    AttackResult,
    Autograd,
    CarliniWagner,
    Evolution,
    LogitMatching,
    MinimalEps,
    OddsEvasion,
    StepDecay,
    minimal_eps,
)
from fastadv.defenses import KWTA, OddsAreOdd

__all__ = [
    "BPDA",
    "EOT",
    "FGSM",
    "KWTA",
    "PGD",
    "AttackResult",
    "Autograd",
    "CarliniWagner",
    "Evolution",
    "LogitMatching",
    "MinimalEps",
    "OddsAreOdd",
    "OddsEvasion",
    "StepDecay",
    "backend",
    "build_info",
    "defenses",
    "minimal_eps",
    "models",
    "ops",
]
