"""Every operator in plain PyTorch: the definition, the oracle of the tests, and the fallback.

Same names and signatures as `fastadv.ops`, which documents them. Arithmetic happens in float32 (float64
for float64 samples), norms are accumulated in float64, and results are rounded so that they never leave
the ball.
"""

from fastadv.reference._samples import SLACK, round_within
from fastadv.reference.carlini_wagner import cw_step_
from fastadv.reference.kwta import kwta, kwta_mask
from fastadv.reference.lp import pgd_step, pgd_step_, project, random_in_ball, steepest
from fastadv.reference.noise import add_noise
from fastadv.reference.odds import gap_moments, odds_score
from fastadv.reference.philox import DRAW_STRIDE, random_words

__all__ = [
    "DRAW_STRIDE",
    "SLACK",
    "add_noise",
    "cw_step_",
    "gap_moments",
    "kwta",
    "kwta_mask",
    "odds_score",
    "pgd_step",
    "pgd_step_",
    "project",
    "random_in_ball",
    "random_words",
    "round_within",
    "steepest",
]
