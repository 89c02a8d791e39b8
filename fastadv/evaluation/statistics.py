"""How far a count can be trusted."""

import math
from dataclasses import dataclass

NORMAL_95 = 1.959963984540054
"""The normal distribution's 97.5% quantile: 95% lie within so many standard deviations."""


@dataclass(frozen=True)
class Rate:
    """So many of so many, such as samples that hold out against an attack.

    Attributes:
        count: 0 to n.
        n: at least 1.
    """

    count: int
    n: int

    @property
    def value(self) -> float:
        """count / n."""
        return self.count / self.n

    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval for the probability behind the rate, where samples are independent.

        Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927). Unlike
        value +- 2 standard deviations it stays within [0, 1] and has a width at 0 and at 1.
        """
        z2 = NORMAL_95**2
        centre = (self.count + z2 / 2) / (self.n + z2)
        spread = self.count * (self.n - self.count) / self.n + z2 / 4
        half = NORMAL_95 * math.sqrt(spread) / (self.n + z2)
        # At the ends the bounds are 0 and 1 exactly, but for rounding.
        low = 0.0 if self.count == 0 else centre - half
        high = 1.0 if self.count == self.n else centre + half
        return low, high


def sign_test(first: int, second: int) -> float:
    """Two-sided p-value of the exact sign test (McNemar's), for two attacks or nets on the same samples.

    Of the samples on which the two differ, `first` speak for the one and `second` for the other; were they
    equally good, each would be a toss of a coin. Raises ValueError for negative counts.
    """
    if first < 0 or second < 0:
        raise ValueError(f"sign_test: counts must be at least 0, got {first} and {second}")
    tosses = first + second
    tail = sum(math.comb(tosses, heads) for heads in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**tosses)


def fisher_test(first: Rate, second: Rate) -> float:
    """One-sided p-value of Fisher's exact test: how likely the first rate is so much larger by chance.

    Of all ways to deal the counts of both to their n at random, the part in which the first gets as many as
    it has, or more (Fisher, "Statistical methods for research workers", 1934).
    """
    total = first.count + second.count
    most = min(total, first.n)
    ways = sum(math.comb(first.n, k) * math.comb(second.n, total - k) for k in range(first.count, most + 1))
    return ways / math.comb(first.n + second.n, total)
