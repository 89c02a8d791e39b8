"""Random numbers of an attack's steps: functions of (seed, sample id, step, draw) and of nothing else."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv import ops
from fastadv.reference import DRAW_STRIDE


@dataclass(frozen=True)
class Step:
    """Which step of an attack a gradient is for, and where its random numbers come from.

    Attributes:
        number: of the step within its restart, from 0.
        steps: the number of steps of a restart.
        key: of the attack's seed and the restart, in [0, 2^63).
        ids: [B] int64, the samples' numbers in random draws.
    """

    number: int
    steps: int
    key: int
    ids: Tensor

    def randomness(self, draws: range) -> "Randomness":
        """The random numbers of these draws of the B samples; row d * B + i is draws[d] of sample i."""
        numbers = torch.arange(draws.start, draws.stop, device=self.ids.device)
        return Randomness(self.key, self.number, (self.ids + numbers[:, None] * DRAW_STRIDE).flatten())


class Randomness:
    """A source of random numbers for a batch of rows, each of which has a stream of its own.

    What a row gets depends on the attack's seed, the row's sample, step and draw, and on how many requests
    came before, not on other rows. The global generator is not touched. Numbers are Philox4x32-10's, the
    same on every device (normals to rounding), computed by the kernel of `ops.random_in_ball`.
    """

    def __init__(self, key: int, step: int, rows: Tensor) -> None:
        """A source for `rows` [N] int64, each row's number."""
        self.rows = rows
        self._key = key
        self._step = step
        self._requests = 0

    def symmetric(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """[N, *shape] uniform on (-1, 1): odd multiples of 2^-23, never 0."""
        self._requests += 1
        zeros = torch.zeros(len(self.rows), *shape, dtype=dtype, device=self.rows.device)
        seed = mix(self._key, self._requests), self._step
        return ops.random_in_ball(zeros, 1.0, math.inf, bounds=None, seed=seed, ids=self.rows)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """[N, *shape] uniform on (0, 1), never 0 or 1."""
        return (self.symmetric(*shape, dtype=dtype) + 1) / 2  # exact

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """[N, *shape] standard normal, by inversion; cut off at 5.3 standard deviations."""
        return self.symmetric(*shape, dtype=dtype).erfinv_().mul_(math.sqrt(2))

    def below(self, count: int | Tensor) -> Tensor:
        """[N] uniform on 0 .. count - 1, whole float32 numbers; `count` is one number or [N]."""
        return (self.uniform() * count).floor_()


def mix(key: int, stream: int) -> int:
    """A key in [0, 2^63) for a stream of its own (the finaliser of SplitMix64: Steele et al. 2014)."""
    mask = 2**64 - 1
    z = (key + (stream + 1) * DRAW_STRIDE) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1
