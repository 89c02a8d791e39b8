"""The operators: one typed function per kernel, native where it was built, the reference elsewhere.

Samples are any dense or strided tensor [B, ...] of float32, float64, float16 or bfloat16; everything after
the first dimension is one sample. channels_last is as fast as contiguous. `eps` and `step_size` are a
number or a tensor [] or [B]. Arithmetic happens in float32 (float64 for float64), norms are accumulated in
float64, and results are rounded towards the ball's centre where rounding to nearest would leave the ball.

Only shapes, dtypes, devices and Python numbers are checked: no operator waits for a GPU. RuntimeError is
raised for tensors that do not fit together, ValueError for numbers out of range. In a tensor, a negative
eps or step size counts as 0; a NaN as eps makes its sample NaN, one as step size moves nothing.

A norm from 2^55 (3.6e16) on counts as inf: no float64 can tell their balls apart.

The same kernels are `torch.ops.fastadv.*`, with the schemas of csrc/ops.cpp.
"""

from fastadv.ops.carlini_wagner import cw_step_
from fastadv.ops.kwta import Backward, Per, Ties, kwta, kwta_mask
from fastadv.ops.lp import Rule, pgd_step, pgd_step_, project, random_in_ball, steepest
from fastadv.ops.noise import NoiseKind, add_noise
from fastadv.ops.odds import gap_moments, odds_score

__all__ = [
    "Backward",
    "NoiseKind",
    "Per",
    "Rule",
    "Ties",
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
    "steepest",
]
