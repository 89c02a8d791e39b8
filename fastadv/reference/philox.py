"""Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011) and the numbers made of its words."""

import math

import torch
from torch import Tensor

# Draw d of sample i has the stream of number i + d * this, 2^64 over the golden ratio as a signed number: no
# two of them meet as long as ids differ by less than 2^31 and draws are fewer.
DRAW_STRIDE = 0x9E3779B97F4A7C15 - 2**64
# Flips the bit of a key that seeds leave 0: noise has other numbers than random_in_ball with the same seed.
NOISE_KEYS = -(2**63)

MASK32 = 0xFFFFFFFF


def seed_pair(seed: int | tuple[int, int] | Tensor, samples: Tensor) -> Tensor:
    """(key, offset) as a tensor on the samples' device."""
    pair = (seed, 0) if isinstance(seed, int) else seed
    return pair if isinstance(pair, Tensor) else torch.tensor(pair, device=samples.device)


def random_words(seed: Tensor, ids: Tensor, blocks: Tensor) -> Tensor:
    """Philox4x32-10 words [len(ids), len(blocks), 4] in int64: elements 4b..4b+3 of sample id are block b."""
    shape = (len(ids), len(blocks))
    key0, key1 = seed[0] & MASK32, (seed[0] >> 32) & MASK32
    c0 = blocks.expand(shape)
    c1 = (ids & MASK32)[:, None].expand(shape)
    c2 = ((ids >> 32) & MASK32)[:, None].expand(shape)
    c3 = (seed[1] & MASK32).expand(shape)
    for _ in range(10):
        # int64 products wrap, but their 64 bits are right; the mask undoes the sign of the shift.
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            ((product1 >> 32) & MASK32) ^ c1 ^ key0,
            product1 & MASK32,
            ((product0 >> 32) & MASK32) ^ c3 ^ key1,
            product0 & MASK32,
        )
        key0, key1 = (key0 + 0x9E3779B9) & MASK32, (key1 + 0xBB67AE85) & MASK32
    return torch.stack((c0, c1, c2, c3), dim=-1)


def open_uniform(words: Tensor) -> Tensor:
    """Uniform on (0, 1) in float64: odd multiples of 2^-24."""
    return ((words >> 9).double() + 0.5) * 2.0**-23


def box_muller(words: Tensor) -> Tensor:
    """Standard normals [..., 4], float32 values in float64 (Box and Muller 1958)."""
    u = open_uniform(words)
    radius = (-2 * u[..., 0::2].log()).sqrt().float()
    angle = 2 * math.pi * u[..., 1::2]
    pairs = torch.stack((radius * angle.cos().float(), radius * angle.sin().float()), dim=-1)
    return pairs.flatten(-2).double()
