"""What is usual of clean samples: moments of their gaps, class by class in one pass, and their scores."""

import math
from fractions import Fraction
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from fastadv._checks import is_real

Spread = Literal["examples", "joint"]

LEAST = 3
"""With fewer examples than this nothing is known of a class."""

SMALLEST = 1e-300
"""No probability that is asked for is smaller, so that its inverse is finite."""

ULPS = 4
"""A pair that varies by no more than so many roundings of its logits has not varied."""


class GapStatistics:
    """Means and variances of the gaps of each predicted class, one sample after the other (Welford 1962).

    Every sample is added on its own and on the CPU, so the bits depend on the order of the samples, but not
    on how they come in batches. What is kept does not grow with the number of samples.

    Attributes:
        counts: [K] int64, the samples of each predicted class.
        mean: [kinds, K, K] float64: for each kind of noise, predicted class and class the mean gap.
    """

    def __init__(self, kinds: int, classes: int) -> None:
        """No samples yet."""
        shape = (kinds, classes, classes)
        self.counts = torch.zeros(classes, dtype=torch.int64)
        self.mean = torch.zeros(shape, dtype=torch.float64)
        self._between = torch.zeros(shape, dtype=torch.float64)
        self._within = torch.zeros(shape, dtype=torch.float64)
        self._rounding = torch.zeros(classes, classes, dtype=torch.float64)

    def add(self, predicted: Tensor, logits: Tensor, gaps: Tensor, variances: Tensor) -> None:
        """Take samples in.

        Args:
            predicted: [B] int64, their predicted classes.
            logits: [B, K] float32 or float64, their own.
            gaps: [kinds, B, K] float64, the means over draws.
            variances: likewise, the variances over draws.
        """
        rounding = logits.cpu().double().abs() * torch.finfo(logits.dtype).eps
        per_sample = zip(
            predicted.tolist(), rounding, gaps.cpu().unbind(1), variances.cpu().unbind(1), strict=True
        )
        for t, ulps, gap, variance in per_sample:
            self.counts[t] += 1
            mean = self.mean[:, t]
            change = gap - mean
            mean += change / self.counts[t]
            self._between[:, t] += change * (gap - mean)
            self._within[:, t] += variance
            self._rounding[t] += ulps

    def std(self, spread: Spread) -> Tensor:
        """[kinds, K, K] float64: population standard deviations, NaN where nothing is known of a pair.

        Nothing is known of a class with fewer than `LEAST` samples, and of a pair (t, i) that has not varied:
        its standard deviation is at most `ULPS` times eps * (|logit_t| + |logit_i|), with the mean magnitudes
        over the samples of class t and the eps of the logits' dtype (1.2e-7 for float32).

        Args:
            spread: "examples": of the samples' means over draws, as in the authors' code; "joint": of single
                draws over all samples, which adds the variance within samples.
        """
        total = self._between if spread == "examples" else self._between + self._within
        std = (total / self.counts[:, None]).sqrt()
        rounding = (self._rounding + self._rounding.diagonal()[:, None]) / self.counts[:, None]
        # A pair that has not varied says nothing of what is usual, and would divide by (next to) 0.
        return std.masked_fill((std <= ULPS * rounding) | (self.counts[:, None] < LEAST), torch.nan)


def normal_cutoff(fpr: float, tails: int) -> float:
    """What one of `tails` standard normal numbers exceeds with a probability of at most fpr (Bonferroni)."""
    _check_probability(fpr)
    return -NormalDist().inv_cdf(float(fpr) / tails)


def held_out_cutoff(scores: Tensor, fpr: float) -> float:
    """The smallest of n scores [n] that a further one exceeds with a probability of at most fpr."""
    count = len(scores)
    if count == 0:
        raise ValueError("OddsAreOdd: there are no held-out scores: call calibrate first")
    _check_probability(fpr)
    # The decimal number that was asked for, not the binary one next to it: 10 * (1 - 0.7) is 3.
    place = count + 1 - math.floor((count + 1) * Fraction(str(float(fpr))))
    if place > count:
        least = math.ceil(1 / fpr) - 1
        raise ValueError(f"OddsAreOdd: fpr {fpr:g} needs at least {least} held-out scores, got {count}")
    cutoff = float(scores.sort().values[place - 1])
    if not math.isfinite(cutoff):
        raise ValueError(
            f"OddsAreOdd: the cutoff for fpr {fpr:g} would be {cutoff}: too many held-out samples are of "
            "unknown classes or have logits that are not finite"
        )
    return cutoff


def _check_probability(fpr: float) -> None:
    if not is_real(fpr) or not SMALLEST <= fpr < 1:
        raise ValueError(f"OddsAreOdd: fpr must be in (0, 1) and at least {SMALLEST:g}, got {fpr!r}")
