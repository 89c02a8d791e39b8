"""Defences: what makes a model harder to attack, or seem so."""

from .adversarial_training import AdversarialLoss, Trainer, train
from .convert import convert, functional_relus
from .kwta import KWTA, set_gamma
from .linear_classifier import RobustLinearClassifier
from .odds import Examination, OddsAreOdd
from .odds_file import OddsFileError
from .odds_gaps import Gaps
from .patterns import activation_pattern

__all__ = [
    "KWTA",
    "AdversarialLoss",
    "Examination",
    "Gaps",
    "OddsAreOdd",
    "OddsFileError",
    "RobustLinearClassifier",
    "Trainer",
    "activation_pattern",
    "convert",
    "functional_relus",
    "set_gamma",
    "train",
]
