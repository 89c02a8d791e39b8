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


def log_of_uniform(u: Tensor) -> Tensor:
    """ln(u) of normal float32 numbers u > 0, to 1e-7: the polynomial of csrc/kernels/normal.cuh.

    Products, sums and their order are those of the kernels, all of them rounded to float32, so that what is
    decided by comparing logarithms is decided alike everywhere.
    """
    root_half = 0x3F3504F3
    shifted = u.view(torch.int32) + (0x3F800000 - root_half)
    exponent = ((shifted >> 23) - 127).float()
    f = ((shifted & 0x007FFFFF) + root_half).view(torch.float32) - 1.0
    p = torch.full_like(f, float.fromhex("0x1.1b3ef4p-4"))
    for coefficient in _LOG:
        p = p * f + float.fromhex(coefficient)
    square = f * f
    small = (f * square) * p - 0.5 * square
    high, low = float.fromhex("0x1.62ep-1"), float.fromhex("0x1.0bfbe8p-15")
    return exponent * high + (f + (small + exponent * low))


_LOG = (  # of log_of_uniform, after the first
    "-0x1.e2e81cp-4",
    "0x1.e65188p-4",
    "-0x1.fb4380p-4",
    "0x1.2332b4p-3",
    "-0x1.5562e0p-3",
    "0x1.99a546p-3",
    "-0x1.ffffeep-3",
    "0x1.555546p-2",
)


def exponential_power(seed: Tensor, ids: Tensor, size: int, p: float) -> Tensor:
    """Numbers [len(ids), size] with a density proportional to exp(-|t|^p), float32: p = 1 or 1 < p < inf.

    p = 1: element i has word i % 4 of block i // 4, as everywhere; |t| = -ln(u) of its uniform u.

    p > 1: by rejection (Devroye, "Non-uniform random variate generation", 1986, section VII.2: exp(-t^p) is
    log-concave). It lies below min(1, exp(-(1 + p (t - 1)))), whose area is 1: a flat part of width
    1 - 1/p and an exponential tail of weight 1/p. So 0.885 of the candidates or more are accepted,
    whatever p. Element i has block i to itself; round r = 0, 1, ... takes the stream of draw r of the
    sample's id, and has two candidates: words 0 and 1, then words 2 and 3. Of a candidate's words
    the first gives u, which says where it lies, and the second v, which decides. The first that is
    accepted is it.

    The sign is the lowest bit of the word that gave u (set: negative), which u does not use. Everything is
    float32 arithmetic without contraction, in the order written here, so devices cannot decide
    differently. Samples of 2^32 elements or more would meet the same numbers again.
    """
    if p == 1:
        words = random_words(seed, ids, torch.arange((size + 3) // 4, device=ids.device))
        words = words.flatten(1)[:, :size]
        return _with_sign(-log_of_uniform(open_uniform(words).float()), words)
    blocks = torch.arange(size, device=ids.device)
    numbers = torch.zeros(len(ids), size, device=ids.device)
    missing = torch.ones_like(numbers, dtype=torch.bool)
    while missing.any():
        words = random_words(seed, ids, blocks)
        for where, decides in (words[..., :2].unbind(-1), words[..., 2:].unbind(-1)):
            size_of, accepted = _candidate(open_uniform(where).float(), open_uniform(decides).float(), p)
            numbers = torch.where(missing & accepted, _with_sign(size_of, where), numbers)
            missing = missing & ~accepted
        ids = ids + DRAW_STRIDE
    return numbers


def _candidate(u: Tensor, v: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """A positive number under the envelope of exp(-t^p), and whether it is accepted."""
    width, inverse, power = (torch.tensor(c, device=u.device).float() for c in (1 - 1 / p, 1 / p, p))
    flat = u <= width
    tail = -log_of_uniform(torch.where(flat, 1, (u - width) * power))  # 0 in the flat part
    t = torch.where(flat, u, width + tail * inverse)
    # v * envelope(t) <= exp(-t^p), twice in logarithms.
    return t, power * log_of_uniform(t) <= log_of_uniform(tail - log_of_uniform(v))


def _with_sign(size: Tensor, words: Tensor) -> Tensor:
    return torch.where((words & 1) == 1, -size, size)
