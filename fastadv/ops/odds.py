"""The statistics of the Odds-are-Odd detector."""

import torch
from torch import Tensor

from fastadv import _checks, reference
from fastadv._library import is_native


def gap_moments(
    clean_logits: Tensor, noisy_logits: Tensor, sums: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """How noise moves the gaps between the logits of the predicted class and of every other one.

    With t = argmax of the clean logits and g_i = (noisy_i - noisy_t) - (clean_i - clean_t), the sums over
    draws of g_i and of g_i^2. Roth, Kilcher and Hofmann, "The odds are odd: a statistical test for detecting
    adversarial examples" (ICML 2019); the survey's section 6. The clean logits are subtracted first, so
    nothing cancels in the squares.

    Args:
        clean_logits: [B, K].
        noisy_logits: [draws, B, K] of the same dtype.
        sums: what this function returned for earlier draws, to go on from. Draws are added one after the
            other, in float64, so the bits do not depend on how they were cut into chunks.

    Returns:
        (sum, sum of squares), each [B, K] float64, 0 at t. Never require grad.
    """
    _checks.logits_of_draws("gap_moments", clean_logits, noisy_logits, sums)
    if is_native(clean_logits):
        return torch.ops.fastadv.gap_moments.default(clean_logits, noisy_logits, *(sums or (None, None)))
    with torch.no_grad():
        return reference.gap_moments(clean_logits, noisy_logits, sums)


def odds_score(
    gaps: Tensor, predicted: Tensor, mean: Tensor, std: Tensor, *, two_sided: bool = False
) -> tuple[Tensor, Tensor]:
    """How odd the gaps of a sample are among those of its predicted class: the largest z-score.

    z_i is (g_i - mean_ti) / std_ti averaged over kinds of noise; the score is its maximum over i != t, and
    where it is taken is the class that noise moves the sample towards. Roth et al. (2019).

    Args:
        gaps: [kinds, B, K] float64, the mean of g over draws for each kind of noise.
        predicted: [B] int64, t, in 0 .. K-1; of anything else nothing is known.
        mean: [kinds, K, K] float64, of g by predicted class and class, over clean samples.
        std: likewise; where it is NaN nothing is known of the pair, and it does not count.
        two_sided: take the maximum of |z_i| instead.

    Returns:
        (score [B] float64, -inf where no pair is known; class [B] int64). Never require grad.
    """
    _checks.gap_statistics("odds_score", gaps, predicted, mean, std)
    if is_native(gaps):
        return torch.ops.fastadv.odds_score.default(gaps, predicted, mean, std, two_sided)
    with torch.no_grad():
        return reference.odds_score(gaps, predicted, mean, std, two_sided=two_sided)
