"""Every operator in plain PyTorch: the definition, the oracle of the tests, and the fallback.

Same names and signatures as `fastadv.ops`, which documents them. Arithmetic happens in float32 (float64
for float64 samples), norms are accumulated in float64, and results are rounded so that they never leave
the ball.
"""

from fastadv.reference._samples import SLACK, lp_norm, round_within
from fastadv.reference.kwta import kwta, kwta_mask
from fastadv.reference.lp import pgd_step, pgd_step_, random_in_ball
from fastadv.reference.noise import add_noise
from fastadv.reference.odds import gap_moments, odds_score
from fastadv.reference.philox import DRAW_STRIDE, random_words
from fastadv.reference.projection import project, project_derivative
from fastadv.reference.steepest import steepest, steepest_derivative

__all__ = [
    "DRAW_STRIDE",
    "SLACK",
    "add_noise",
    "gap_moments",
    "kwta",
    "kwta_mask",
    "lp_norm",
    "odds_score",
    "pgd_step",
    "pgd_step_",
    "project",
    "project_derivative",
    "random_in_ball",
    "random_words",
    "round_within",
    "steepest",
    "steepest_derivative",
]
