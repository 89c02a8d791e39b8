"""The report of examples/kwta.py: tables, and sentences that the figures choose."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fastadv.evaluation.robustness import WORST, Held, cell, grid, markdown, rate, worst
from fastadv.evaluation.statistics import Rate, sign_test
from kwta_case import ANNEALED, CLEAN, PLAIN, RELU, Case, evolution_name, table_rows

LEVEL = 0.05
"""A p-value below it counts as a difference."""
FEW = 3
"""So few samples may have fallen by chance, such as that of a random start; from here on it is a finding."""


def report(case: Case, tables: Mapping[str, Mapping[str, Held]]) -> str:
    """All of it, in Markdown; `tables` holds `case.table` of each training."""
    s = case.settings
    names = [name for name in table_rows(s) if name != CLEAN]
    gradient = [name for name in names if name == "FGSM" or name.startswith("PGD")]
    evolution = evolution_name(s.samples)
    parts = [
        f"# k-WTA on {s.data}: linf, eps {s.eps:g}",
        "In each cell: the samples that are right before and after the attack, in %, with Wilson's 95% "
        "interval, and the lowest and highest of the training seeds. Every number is an upper bound of the "
        "robust accuracy.",
    ]
    for training, nets in tables.items():
        parts += [f"## {training.capitalize()} training", markdown(grid(nets))]
        parts.append(bullets(reading(nets, gradient, evolution)))
    parts += [
        f"## Other sizes (n={s.sweep_images}, seed 0)",
        markdown(by_size(case)),
        f"## Evolution's samples (n={s.sweep_images}, seed 0)",
        bullets([sampling(net.size(), held) for net, held in case.by_samples().items()]),
    ]
    return "\n\n".join(parts) + "\n"


def by_size(case: Case) -> list[list[str]]:
    """A line for each net of whatever size, a column for each attack."""
    sizes = case.by_size()
    lines = [[net.size(), *map(cell, held.values()), cell(worst(held))] for net, held in sizes.items()]
    return [["net", *next(iter(sizes.values())), WORST], *lines]


def bullets(sentences: Sequence[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def reading(nets: Mapping[str, Held], gradient: Sequence[str], evolution: str) -> list[str]:
    """What a table says.

    Args:
        nets: by activation, all on the same samples.
        gradient: the attacks with a net's own gradient where it stands; the last is the costliest.
        evolution: the name of Evolution.
    """
    worsts = {name: worst(held) for name, held in nets.items()}
    return [
        calibration(nets[RELU][gradient[-1]], nets[RELU][evolution], gradient[-1], evolution),
        *(hidden(name, held, gradient) for name, held in nets.items()),
        *(
            compare(first, worsts[first], second, worsts[second])
            for first, second in ((PLAIN, RELU), (ANNEALED, RELU), (ANNEALED, PLAIN))
        ),
    ]


def calibration(by_gradient: Tensor, by_evolution: Tensor, gradient: str, evolution: str) -> str:
    """Whether Evolution is as good as gradients where gradients are known to be good: on the ReLU nets."""
    alone, missed = count(by_gradient & ~by_evolution), count(by_evolution & ~by_gradient)
    p = sign_test(alone, missed)
    if p >= LEVEL:
        verdict = (
            "neither is shown to be the stronger one there, so a failure of Evolution on k-WTA would count"
        )
    elif missed > alone:
        verdict = "it is the weaker attack there, so a failure of Evolution on k-WTA would prove nothing"
    else:
        verdict = "it is the stronger attack there, so PGD is not at its end even with ReLU"
    return (
        f"On {RELU}, {evolution} breaks {alone} samples that {gradient} does not, and misses {missed} that "
        f"{gradient} breaks (p = {p:.2g}): {verdict}."
    )


def hidden(name: str, held: Held, gradient: Sequence[str]) -> str:
    """Whether attacks that do without the net's own gradient break what those with it do not."""
    standing = worst({attack: held[attack] for attack in gradient})
    others = {attack: count(standing & ~flags) for attack, flags in held.items() if attack not in gradient}
    fallen = count(standing & ~worst(held))
    by = ", ".join(f"{attack} {number}" for attack, number in others.items() if number)
    verdict = (
        "its gradient hides something"
        if fallen >= FEW
        else "nothing here shows that its gradient hides anything"
    )
    return (
        f"{name}: {count(standing)} of {standing.numel()} samples hold out against {', '.join(gradient)}. "
        f"Of these, {fallen} fall to the other attacks{f' ({by})' if by else ''}: {verdict}."
    )


def compare(first: str, held: Tensor, second: str, held_by_second: Tensor) -> str:
    """Which of two nets is the more robust, on the same samples."""
    alone, other = count(held & ~held_by_second), count(held_by_second & ~held)
    p = sign_test(alone, other)
    if p >= LEVEL:
        verdict = "no difference is shown"
    else:
        verdict = f"{first if alone > other else second} is the more robust"
    return (
        f"In the worst case {first} has {percent(rate(held))} and {second} {percent(rate(held_by_second))}; "
        f"{alone} samples are held by the first alone, {other} by the second alone (p = {p:.2g}): {verdict}."
    )


def sampling(name: str, held: Mapping[int, Tensor]) -> str:
    """Whether Evolution has come to its end with its largest number of samples."""
    *_, fewer, most = sorted(held)
    new = count(held[fewer] & ~held[most])
    verdict = (
        "it has not come to its end, and still more would break more"
        if new >= FEW
        else "it gains little from more"
    )
    accuracies = ", ".join(f"{percent(rate(held[number]))} with {number}" for number in sorted(held))
    return (
        f"{name}: {accuracies} samples a step. {new} of those that hold out with {fewer} fall with {most}: "
        f"{verdict}."
    )


def count(flags: Tensor) -> int:
    """How many are set."""
    return int(flags.sum())


def percent(value: Rate) -> str:
    """A rate in per cent."""
    return f"{100 * value.value:.1f}%"
