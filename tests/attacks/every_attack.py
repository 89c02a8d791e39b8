"""The attacks of test_invariants.py and test_refusals.py, which a new one joins by one line in ATTACKS."""

import math
from functools import partial

import pytest

from fastadv import EOT, FGSM, PGD, CarliniWagner, Evolution
from fastadv.attacks.transforms import Noise

ATTACKS = {
    "fgsm": partial(FGSM, eps=0.15),
    "fgsm-l2": partial(FGSM, eps=0.6, norm=2),
    "pgd": partial(PGD, eps=0.1, steps=6),
    "pgd-l2": partial(PGD, eps=0.5, norm=2, steps=6),
    "fgsm-l1": partial(FGSM, eps=4, norm=1),
    "fgsm-l0": partial(FGSM, eps=9, norm=0),
    "pgd-l1": partial(PGD, eps=4, norm=1, steps=6),
    "pgd-l1.5": partial(PGD, eps=1.2, norm=1.5, steps=5),
    "pgd-l7-raw-gradient": partial(PGD, eps=0.2, norm=7, steps=4, step_size=0.1, rule="gradient"),
    "pgd-l0": partial(PGD, eps=8, norm=0, steps=5),
    "pgd-l0-pixels": partial(PGD, eps=4, norm=0, pixels=True, steps=4),
    "pgd-restarts": partial(PGD, eps=0.07, steps=3, restarts=3, loss="margin"),
    "pgd-last": partial(PGD, eps=0.1, steps=6, keep="last"),
    "pgd-last-evolution": partial(PGD, eps=0.1, steps=4, keep="last", gradient=Evolution(0.03, 40)),
    "pgd-clean-start": partial(PGD, eps=0.1, steps=5, step_size=0.03, random_start=False, loss="dlr"),
    "pgd-raw-gradient": partial(PGD, eps=0.5, norm=2, steps=5, step_size=0.05, rule="gradient"),
    "pgd-eot": partial(PGD, eps=0.1, steps=5, gradient=EOT(Noise(0.05), 3)),
    "pgd-eot-logits": partial(
        PGD, eps=0.5, norm=2, steps=3, restarts=2, gradient=EOT(Noise(0.1, "uniform"), 4, "logits", chunk=2)
    ),
    "fgsm-eot": partial(FGSM, eps=0.15, loss="margin", gradient=EOT(None, 2, chunk=2)),
    "pgd-evolution": partial(PGD, eps=0.1, steps=5, gradient=Evolution(0.03, 40, chunk=16)),
    "pgd-evolution-raw": partial(
        PGD,
        eps=0.5,
        norm=2,
        steps=4,
        step_size=0.05,
        rule="gradient",
        random_start=False,
        gradient=Evolution(0.1, lambda step, steps: 30 + step, antithetic=False),
    ),
    "fgsm-evolution": partial(FGSM, eps=0.2, gradient=Evolution(0.01, 60)),
}
# Attacks that look for the least perturbation: no eps, x comes back where they fail, the end is their own.
MINIMAL_NORM = {
    "cw-l2": partial(CarliniWagner, steps=20, search_steps=3, c_init=0.1, lr=0.05),
    "cw-linf": partial(CarliniWagner, norm=math.inf, steps=15, search_steps=4, c_init=0.1, lr=0.05),
    "cw-l0": partial(CarliniWagner, norm=0, pixels=False, steps=20, search_steps=5, lr=0.05),
    "cw-eot": partial(
        CarliniWagner, steps=8, search_steps=2, c_init=1.0, lr=0.1, gradient=EOT(Noise(0.05), 3)
    ),
    "cw-evolution": partial(
        CarliniWagner, norm=math.inf, steps=10, search_steps=3, lr=0.1, gradient=Evolution(0.03, 40)
    ),
}
ATTACKS |= MINIMAL_NORM
every_attack = pytest.mark.parametrize("make", ATTACKS.values(), ids=ATTACKS.keys())


def configured(make, *, early_stop):
    """The attack, told when to stop if that is a question."""
    return make() if make in MINIMAL_NORM.values() else make(early_stop=early_stop)
