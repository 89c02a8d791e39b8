"""What was asked of the kernels and attacks, and whether it was met."""

from collections.abc import Iterable
from typing import Any, NamedTuple


class Speed(NamedTuple):
    """At least so many times as fast as a contender."""

    group: str
    against: str
    wanted: float

    def got(self, groups: dict[str, Any]) -> float | None:
        """What was measured, None if nothing was."""
        return groups.get(self.group, {}).get("times_as_fast_as", {}).get(self.against)


class Share(NamedTuple):
    """At least this share of the bandwidth that the group `against` has: "copy", "read" or "write"."""

    group: str
    against: str
    wanted: float

    def got(self, groups: dict[str, Any]) -> float | None:
        """What was measured, None if nothing was."""
        bandwidths = [
            groups.get(group, {}).get("contenders", {}).get(contender, {}).get("gb_per_s")
            for group, contender in ((self.group, "native"), (self.against, self.against))
        ]
        return None if None in bandwidths else round(bandwidths[0] / bandwidths[1], 3)


Target = Speed | Share

TOPK = ("topk + scatter", "topk + compare", "kthvalue + compare")
DATA = ("normal", "relu", "ties")

CPU: list[Target] = [
    Speed("pgd_step linf fp32", "reference", 3.0),
    Speed("pgd_step linf fp32", "torch.compile", 1.0),
    Speed("pgd_step l2 fp32", "torch.compile", 1.3),
    Speed("project l1 fp32", "sorting", 5.0),
    Speed("project l1.5 fp32", "bisection", 20.0),
    # At most 0.92 and 0.35 of its time.
    Speed("PGD-40 tiny CNN", "torchattacks", 1 / 0.92),
    Speed("PGD-40 LeNet5 early stop", "torchattacks", 1 / 0.35),
    *(
        Speed(f"kwta {cols} fp32 normal", contender, 5.0)
        for cols in (8192, 16384, 32768, 65536)
        for contender in TOPK
    ),
    # At most 0.8 of their time.
    *(Speed("C&W l2 200 iterations tiny CNN", contender, 1 / 0.8) for contender in ("adv-lib", "Foolbox")),
    # At most 0.95 of its time. The model alone was seen to take 0.93 of it.
    Speed("PGD-7 training small net", "torchattacks", 1 / 0.95),
    # At most 1.10 of their time.
    Speed("k-WTA ResNet-18 training step", "relu", 1 / 1.10),
    Speed("detection LeNet5", "model only", 1 / 1.10),
]

# For norm 2 in `pgd_step` a sample of 32x32 fits on one multiprocessor: 4 transfers of each element are the
# floor there, and 7 where it does not fit.
GPU: list[Target] = [
    Share("pgd_step linf fp32", "copy", 0.9),
    Share("pgd_step l2 32x32 fp32", "copy", 0.8),
    Share("pgd_step l2 fp32", "copy", round(0.8 * 4 / 7, 3)),
    Speed("pgd_step l2 fp32", "torch.compile", 1.5),
    *(
        Speed(f"kwta {cols} {dtype} {data}", contender, 10.0)
        for cols in (8192, 16384, 32768, 65536, 150_528, 1_000_000)
        for dtype in ("fp32", "bf16")
        for data in DATA
        for contender in ("topk + scatter", "topk + compare")
    ),
    *(Share(f"kwta {cols} fp32 {data}", "copy", 0.6) for cols in (8192, 16384, 32768) for data in DATA),
    # At most 1.15 of their time.
    Speed("k-WTA ResNet-18 training step", "relu", 1 / 1.15),
    Speed("k-WTA ResNet-18 inference", "relu", 1 / 1.15),
    Share("add_noise normal fp32", "write", 0.8),
    Share("add_noise uniform fp32", "write", 0.8),
    Share("gap_moments fp32", "read", 0.8),
    Share("cw_step fp32", "copy", 0.85),
]


def verdicts(targets: Iterable[Target], groups: dict[str, Any]) -> list[dict[str, Any]]:
    """Whether each target was met; "met" is None where it was not measured."""
    return [
        {
            "group": target.group,
            "against": target.against,
            "of": "bandwidth" if isinstance(target, Share) else "time",
            "wanted": (wanted := round(target.wanted, 3)),
            "got": (got := target.got(groups)),
            "met": None if got is None else got >= wanted,
        }
        for target in targets
    ]
