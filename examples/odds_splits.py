"""False positives of examples/odds.py over many random divisions of the same clean images."""

import math
from collections.abc import Sequence

import torch

from fastadv import ops
from fastadv.defenses import Gaps
from fastadv.defenses.odds_statistics import GapStatistics, held_out_cutoff


def false_positives(
    gaps: Gaps, sizes: Sequence[int], fprs: Sequence[float], *, splits: int, seed: int
) -> dict[str, dict[str, list[int]]]:
    """How many of the test images are flagged, for each random division of all images in three.

    A single division says little about a promise that is kept on average over them: its cutoff is an
    estimate, and all of its false positives share it.

    Args:
        gaps: of all images.
        sizes: of the parts: for the statistics, for the cutoffs, and to test on.
        fprs: the rates that are asked for.
        splits: how many divisions.
        seed: of the divisions.

    Returns:
        {"one": {"0.01": counts, ...}, "two": ...}, one-sided and two-sided, a count for each division.
    """
    generator = torch.Generator().manual_seed(seed)
    counts: dict[str, dict[str, list[int]]] = {
        side: {f"{fpr:g}": [] for fpr in fprs} for side in ("one", "two")
    }
    for _ in range(splits):
        order = torch.randperm(len(gaps.predicted), generator=generator)
        fit, held_out, test = order.split(list(sizes))
        statistics = GapStatistics(len(gaps.mean), gaps.logits.shape[1])
        statistics.add(gaps.predicted[fit], gaps.logits[fit], gaps.mean[:, fit], gaps.variance[:, fit])
        mean, std = statistics.mean, statistics.std("examples")
        for side, found in counts.items():
            clean, unseen = (
                ops.odds_score(gaps.mean[:, part], gaps.predicted[part], mean, std, two_sided=side == "two")[
                    0
                ]
                for part in (held_out, test)
            )
            for fpr in fprs:
                found[f"{fpr:g}"].append(int((unseen > held_out_cutoff(clean, fpr)).sum()))
    return counts


def summary(counts: Sequence[int], n: int, target: float, held_out: int) -> list[str]:
    """In %: the mean rate, its standard deviation over divisions, that of the test images alone and with the
    cutoff's own, and how many divisions lie within three of each of these.

    Args:
        counts: of flagged images among n, a division each.
        n: test images of a division.
        target: the rate that was asked for.
        held_out: images that the cutoff of a division is from.
    """
    rates = torch.tensor(counts).double() / n
    binomial = math.sqrt(target * (1 - target) / n)
    both = binomial * math.sqrt(1 + n / held_out)  # the cutoff's own error is independent and as large
    off = (rates - target).abs()
    return [
        f"{100 * rates.mean():.2f}",
        f"{100 * rates.std():.2f}",
        f"{100 * binomial:.2f}",
        f"{100 * both:.2f}",
        f"{100 * (off <= 3 * binomial).double().mean():.0f}",
        f"{100 * (off <= 3 * both).double().mean():.0f}",
    ]
