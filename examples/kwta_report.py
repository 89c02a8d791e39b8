"""The report of examples/kwta.py: tables, and sentences that the figures choose."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fastadv.evaluation.robustness import Held, cell, grid, markdown, rate, worst
from fastadv.evaluation.statistics import Rate, fisher_test, sign_test
from kwta_case import ANNEALED, CLEAN, PLAIN, RELU, Case, evolution_name, table_rows

LEVEL = 0.05
"""A p-value below it counts as a difference."""


def report(case: Case, tables: Mapping[str, Mapping[str, Held]]) -> str:
    """All of it, in Markdown; `tables` holds `case.table` of each training."""
    s = case.settings
    names = [name for name in table_rows(s) if name != CLEAN]
    gradient = [name for name in names if name == "FGSM" or name.startswith("PGD")]
    evolution = evolution_name(s.samples)
    parts = [
        f"# k-WTA on {s.data}: linf, eps {s.eps:g}",
        "In each cell: the samples that are right before and after the attack, in %, with Wilson's 95% "
        "interval, and the lowest and highest of the training seeds. The interval is that of the samples, "
        "given these nets: how far another training would be off, the seeds say. The robust accuracy on "
        "these samples is at most what any attack leaves; a better attack would leave less.",
    ]
    for training, nets in tables.items():
        parts += [f"## {training.capitalize()} training", markdown(grid(nets))]
        parts.append(bullets(reading(nets, gradient, evolution)))
    parts += [
        f"## Other sizes (natural training, n={s.sweep_images}, seed 0)",
        markdown(by_size(case)),
        f"## Evolution's samples (n={s.sweep_images}, seed 0)",
        bullets([sampling(net.size(), held) for net, held in case.by_samples().items()]),
    ]
    return "\n\n".join(parts) + "\n"


def by_size(case: Case) -> list[list[str]]:
    """A line for each net of whatever size, a column for each attack."""
    sizes = case.by_size()
    lines = [[net.size(), *map(cell, held.values()), cell(worst(held))] for net, held in sizes.items()]
    return [["net", *next(iter(sizes.values())), "worst of these"], *lines]


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
        *(hidden(name, held, nets[RELU], gradient) for name, held in nets.items()),
        *(
            compare(first, worsts[first], second, worsts[second])
            for first, second in ((PLAIN, RELU), (ANNEALED, RELU), (ANNEALED, PLAIN))
        ),
    ]


def calibration(by_gradient: Tensor, by_evolution: Tensor, gradient: str, evolution: str) -> str:
    """Whether Evolution is as good as gradients where gradients are known to be good: on the ReLU nets."""
    alone, missed = count(by_gradient & ~by_evolution), count(by_evolution & ~by_gradient)
    p = sign_test(alone, missed)
    if alone + missed == 0:
        verdict = "they break the same samples there"
    elif p >= LEVEL and missed > alone:
        verdict = "too few differ to tell, but these speak against it: a failure on k-WTA would prove little"
    elif p >= LEVEL:
        verdict = "it is not shown to be the weaker attack there, so a failure of it on k-WTA would count"
    elif missed > alone:
        verdict = "it is the weaker attack there, so a failure of Evolution on k-WTA would prove nothing"
    else:
        verdict = "it is the stronger attack there, so PGD is not at its end even with ReLU"
    return (
        f"On {RELU}, {evolution} breaks {alone} samples that {gradient} does not, and misses {missed} that "
        f"{gradient} breaks (p = {p:.2g}): {verdict}."
    )


def hidden(name: str, held: Held, control: Held, gradient: Sequence[str]) -> str:
    """Whether attacks that do without the net's own gradient break what those with it do not.

    Any further attack breaks some more samples, if only by its random starts. So what falls is held against
    what falls of the ReLU nets, the `control`, whose gradients are as good as gradients get.
    """
    standing, fallen = _fallen(held, gradient)
    others = {attack: count(standing & ~flags) for attack, flags in held.items() if attack not in gradient}
    by = ", ".join(f"{attack} {number}" for attack, number in others.items() if number)
    text = (
        f"{name}: {count(standing)} of {standing.numel()} samples hold out against {', '.join(gradient)}. "
        f"Of these, {count(fallen)} fall to the other attacks{f' ({by})' if by else ''}"
    )
    if held is control:
        return f"{text}."
    if not standing.any():
        return f"{text}: there is nothing left that its gradient could hide."
    control_standing, control_fallen = _fallen(control, gradient)
    if not fallen.any():
        return f"{text}: nothing here shows that its gradient hides anything."
    if not control_standing.any():
        return f"{text}; of {RELU} none holds out, so that cannot be held against anything."
    seen, expected = (
        Rate(count(flags), count(stood))
        for flags, stood in ((fallen, standing), (control_fallen, control_standing))
    )
    p = fisher_test(seen, expected)
    verdict = "its gradient hides more" if p < LEVEL else "that its gradient hides more is not shown"
    return f"{text}, and of {RELU} {expected.count} of {expected.n} (p = {p:.2g}): {verdict}."


def _fallen(held: Held, gradient: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What holds out against the attacks with gradients, and what of it falls to others."""
    standing = worst({attack: held[attack] for attack in gradient})
    return standing, standing & ~worst(held)


def compare(first: str, held: Tensor, second: str, held_by_second: Tensor) -> str:
    """Which of two nets is the more robust, on the same samples."""
    alone, other = count(held & ~held_by_second), count(held_by_second & ~held)
    p = sign_test(alone, other)
    if p >= LEVEL:
        verdict = "no difference is shown"
    else:
        verdict = f"{first if alone > other else second} holds out better against these attacks"
    return (
        f"Against all of them together {first} has {percent(rate(held))} and {second} "
        f"{percent(rate(held_by_second))}; {alone} samples are held by the first alone, {other} by the "
        f"second alone (p = {p:.2g}): {verdict}."
    )


def sampling(name: str, held: Mapping[int, Tensor]) -> str:
    """Whether Evolution has come to its end with its largest number of samples."""
    *_, fewer, most = sorted(held)
    new, left = count(held[fewer] & ~held[most]), count(held[most])
    accuracies = ", ".join(f"{percent(rate(held[number]))} with {number}" for number in sorted(held))
    if left == 0:
        verdict = "nothing is left"
    elif new == 0:
        verdict = f"more samples than {fewer} gained nothing, and {left} are left"
    else:
        verdict = f"{left} are left, and where it would end is not seen"
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
