"""How far noise moves the gaps between a sample's logits."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from fastadv import ops
from fastadv._checks import NOISE_KINDS, Bounds
from fastadv.attacks.attack import Problem
from fastadv.attacks.gradients import Forward, chunks
from fastadv.ops import NoiseKind

Noise = Sequence[tuple[NoiseKind, float]]
"""Kinds and scales, each as in `fastadv.ops.add_noise`."""


class Gaps(NamedTuple):
    """How noise moves the logits of samples.

    Attributes:
        logits: [B, K] float, of the samples themselves.
        predicted: [B] int64, their argmax t.
        mean: [kinds, B, K] float64: the mean over draws of g_i = (noisy_i - noisy_t) - (clean_i - clean_t),
            for each kind of noise. Positive: noise moves the sample towards class i.
        variance: likewise, the variance over draws.
    """

    logits: Tensor
    predicted: Tensor
    mean: Tensor
    variance: Tensor

    @property
    def finite(self) -> Tensor:
        """[B] bool: the logits of the sample and of all of its copies are finite."""
        return self.mean.isfinite().all(2).all(0) & self.logits.isfinite().all(1)

    @property
    def features(self) -> Tensor:
        """[B, kinds * K] float64: the means, sample by sample."""
        return self.mean.transpose(0, 1).flatten(1)


def measure(
    model: Forward, samples: Problem, noise: Noise, draws: int, chunk: int | None, bounds: Bounds, seed: int
) -> Gaps:
    """Ask the model about the samples and `draws` noisy copies of each for every kind of noise.

    At most `chunk` copies are in one forward, and never less than one of each sample.

    Raises:
        ValueError: the model does not return logits [B, K] with K >= 2.
    """
    logits, rows = model(samples.x), len(samples.x)
    if logits.dim() != 2 or len(logits) != rows or logits.shape[1] < 2:
        raise ValueError(
            f"OddsAreOdd: model must return logits [{rows}, K] with K >= 2, got {list(logits.shape)}"
        )
    moments = []
    for number, (kind, scale) in enumerate(noise):
        sums = None
        for part in chunks(draws, None if chunk is None else max(1, chunk // max(1, rows))):
            copies = ops.add_noise(
                samples.x,
                len(part),
                kind=kind,
                scale=scale,
                bounds=bounds,
                seed=(seed, number),
                ids=samples.ids,
                first_draw=part.start,
            )
            sums = ops.gap_moments(logits, model(copies.flatten(0, 1)).unflatten(0, (len(part), rows)), sums)
        moments.append(sums)
    mean, square = (torch.stack(kinds) / draws for kinds in zip(*moments, strict=True))
    # g holds nothing but what noise does, so the square of its mean is no larger than it must be.
    return Gaps(logits, logits.argmax(1), mean, (square - mean * mean).clamp_(min=0))


def check_noise(noise: Noise) -> None:
    """Raise ValueError for noise that there is not."""
    if len(noise) == 0:
        raise ValueError("OddsAreOdd: noise must have at least one (kind, scale), got none")
    for kind, scale in noise:
        if kind not in NOISE_KINDS:
            raise ValueError(f"OddsAreOdd: kind of noise must be 'normal', 'uniform' or 'sign', got {kind!r}")
        if not isinstance(scale, Real) or not 0 < float(scale) < math.inf:
            raise ValueError(f"OddsAreOdd: scale of noise must be positive and finite, got {scale!r}")
