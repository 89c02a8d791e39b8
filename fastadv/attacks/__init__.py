"""Attacks: frozen configurations that, called with a model and samples, return adversarial samples."""

from fastadv.attacks import transforms
from fastadv.attacks.attack import AttackResult
from fastadv.attacks.bpda import BPDA
from fastadv.attacks.carlini_wagner import CarliniWagner
from fastadv.attacks.eot import EOT
from fastadv.attacks.evolution import Evolution
from fastadv.attacks.fgsm import FGSM
from fastadv.attacks.gradients import Autograd, Estimator
from fastadv.attacks.losses import LogitMatching, SampleLoss, logits_of_others
from fastadv.attacks.minimal_eps import FixedBudget, MinimalEps, minimal_eps
from fastadv.attacks.odds import OddsEvasion
from fastadv.attacks.pgd import PGD
from fastadv.attacks.schedules import StagedSamples, StepDecay

__all__ = [
    "BPDA",
    "EOT",
    "FGSM",
    "PGD",
    "AttackResult",
    "Autograd",
    "CarliniWagner",
    "Estimator",
    "Evolution",
    "FixedBudget",
    "LogitMatching",
    "MinimalEps",
    "OddsEvasion",
    "SampleLoss",
    "StagedSamples",
    "StepDecay",
    "logits_of_others",
    "minimal_eps",
    "transforms",
]
