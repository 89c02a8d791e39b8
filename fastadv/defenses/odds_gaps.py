"""How far noise moves the gaps between a sample's logits; batches and settings of what asks for it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fastadv import ops
from fastadv._checks import NOISE_KINDS, Bounds, is_integer, is_interval, is_real
from fastadv.attacks.attack import Problem, pose
from fastadv.attacks.gradients import Forward, chunks
from fastadv.ops import NoiseKind
from fastadv.reference import DRAW_STRIDE

Batch = Tensor | Sequence[Tensor]
"""Samples x, or (x, y, ...) with labels."""
Noise = Sequence[tuple[NoiseKind, float]]
"""Kinds and scales, each as in `fastadv.ops.add_noise`."""

MOST_DRAWS = 2**20
"""A million draws narrow the mean to a thousandth of the noise; who asks for more is mistaken."""


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


def content_ids(x: Tensor) -> Tensor:
    """[B] int64 in [0, 2^31): numbers that depend on what the samples [B, ...] are, and on nothing else.

    Equal samples of one dtype have equal numbers on every device; of different ones, one pair in 2^31 has.
    """
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    bits = (x.detach().flatten(1).contiguous() + 0).view(integer).long()  # + 0 makes -0 0
    # Sums of wrapped products: exact, so the order in which a device adds them changes nothing.
    weights = _scramble(torch.arange(1, bits.shape[1] + 1, device=x.device)) | 1
    return (_scramble((bits * weights).sum(1)) >> 33) & (2**31 - 1)


def _scramble(z: Tensor) -> Tensor:
    """Bits that depend on all bits of int64 numbers (the finaliser of SplitMix64: Steele et al. 2014)."""
    z = z * DRAW_STRIDE
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64)):
        z = (z ^ (z >> shift)) * factor
    return z ^ (z >> 31)


def checked(
    name: str, loader: Iterable[Batch], labelled: bool, bounds: Bounds, quiet: bool
) -> Iterator[Problem]:
    """Batches of a loader under a progress bar, checked, with noise by their content.

    Args:
        name: of the method that asks, for errors and the bar.
        loader: batches x or (x, y, ...).
        labelled: whether y is needed.
        bounds: of x.
        quiet: show no bar.

    Raises:
        TypeError, ValueError: as `pose`; a batch that is none, lacks labels, or has samples of another shape
            than the first.
    """
    shape = None
    bar = Console(stderr=True)
    for batch in track(loader, name.partition(".")[2], console=bar, disable=quiet, transient=True):
        parts = [batch] if isinstance(batch, Tensor) else batch
        if not isinstance(parts, list | tuple) or not parts:
            got = type(batch).__name__
            raise TypeError(f"{name}: loader must give batches x or (x, y, ...), got {got}")
        x, *rest = parts
        if labelled and not rest:
            raise ValueError(f"{name}: loader must give batches (x, y), got x alone")
        problem = pose(name, x, rest[0] if labelled else None, None, None, bounds)
        shape = shape or x.shape[1:]
        if x.shape[1:] != shape:
            raise ValueError(
                f"{name}: loader must give samples of one shape, got {list(shape)}, then {list(x.shape[1:])}"
            )
        problem.ids = content_ids(problem.x)
        yield problem


def check_settings(
    noise: Noise,
    draws: int,
    chunk: int | None,
    bounds: Bounds,
    two_sided: bool,
    autocast: torch.dtype | None,
    seed: int,
) -> None:
    """Raise TypeError or ValueError for settings of a detector that are none or out of range."""
    if not isinstance(noise, Sequence) or isinstance(noise, str):
        raise TypeError(f"OddsAreOdd: noise must be a list of (kind, scale), got {noise!r}")
    if len(noise) == 0:
        raise ValueError("OddsAreOdd: noise must have at least one (kind, scale), got none")
    for pair in noise:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"OddsAreOdd: noise must be a list of (kind, scale), got {pair!r} in it")
        kind, scale = pair
        if kind not in NOISE_KINDS:
            raise ValueError(f"OddsAreOdd: kind of noise must be 'normal', 'uniform' or 'sign', got {kind!r}")
        if not is_real(scale) or not 0 < float(scale) < math.inf:
            raise ValueError(f"OddsAreOdd: scale of noise must be positive and finite, got {scale!r}")
    if not (is_integer(draws) and 1 <= draws <= MOST_DRAWS):
        raise ValueError(f"OddsAreOdd: draws must be an integer in 1 .. {MOST_DRAWS}, got {draws!r}")
    if chunk is not None and not (is_integer(chunk) and chunk >= 1):
        raise ValueError(f"OddsAreOdd: chunk must be an integer of at least 1 or None, got {chunk!r}")
    if bounds is not None and not is_interval(bounds):
        raise ValueError(f"OddsAreOdd: bounds must be (lower, upper) with lower < upper, got {bounds!r}")
    if not isinstance(two_sided, bool):
        raise ValueError(f"OddsAreOdd: two_sided must be True or False, got {two_sided!r}")
    if autocast not in (None, torch.float16, torch.bfloat16):
        raise ValueError(
            f"OddsAreOdd: autocast must be torch.float16, torch.bfloat16 or None, got {autocast}"
        )
    if not (is_integer(seed) and 0 <= seed < 2**63):
        raise ValueError(f"OddsAreOdd: seed must be an integer in [0, 2^63), got {seed!r}")
