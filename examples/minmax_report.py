"""The report of examples/minmax.py: tables, and sentences that the figures choose."""

from collections.abc import Mapping

from torch import Tensor

from fastadv.evaluation.robustness import Held, cell, grid, markdown, rate, worst
from fastadv.models.datasets import CLASSES
from kwta_report import bullets, compare, count, percent
from minmax_case import CLEAN, LENET5, LENET5_EPS, Case, Net, gradient_rows
from minmax_linear import table as linear_table

FEW = 0.5
"""A net that predicts one class for a larger part of balanced images is close to a constant one."""


def report(case: Case) -> str:
    """All of it, in Markdown."""
    s = case.settings
    parts = [
        "# Min-max: training on the worst case",
        "## Linear classifiers: 0 against 1",
        f"Digits that are misclassified, in %, with Wilson's 95% interval (n={s.linear_images}), each digit "
        "judged by a classifier that has not seen it; beside it the tutorial's figure with MNIST's 12,665 "
        "training and 2,115 test images. The worst case is exact, and so is the radius.",
        linear_table(case.linear_errors(), s.linear_eps),
        "## Convnets",
        "In each cell: the samples that are right before and after the attack, in %, with Wilson's 95% "
        "interval, and the lowest and highest of the training seeds. The robust accuracy is at most what "
        "any attack leaves; a better attack would leave less.",
    ]
    for data in case.data:
        for eps in s.attacked:
            nets = case.table(data, eps)
            parts += [f"### {data}, linf {eps:g}", markdown(grid(nets)), bullets(reading(nets, case, eps))]
        parts += [f"### {data}, by eps: {by_eps_name(case)} alone", markdown(by_eps(case.curve(data)))]
        parts.append(bullets([constant(case, data)]))
    return "\n\n".join(parts) + "\n"


def by_eps_name(case: Case) -> str:
    """The attack behind accuracy by eps."""
    return list(gradient_rows(case.settings, 0.1))[-1]


def by_eps(curves: Mapping[str, Mapping[float, Tensor]]) -> list[list[str]]:
    """A line for each net, a column for each eps."""
    header = ["net", *(f"{eps:g}" for eps in next(iter(curves.values())))]
    return [header, *([name, *map(cell, curve.values())] for name, curve in curves.items())]


def reading(nets: Mapping[str, Held], case: Case, eps: float) -> list[str]:
    """What a table says."""
    gradient = list(gradient_rows(case.settings, eps))
    natural, trained = (Net("", kind, 0).name for kind in (0.0, eps))
    sentences = [
        gain(trained, worst(nets[trained]), worst(nets[natural])),
        *(beyond(name, held, gradient) for name, held in nets.items() if name != natural),
    ]
    if LENET5 in nets and eps == LENET5_EPS:
        sentences.append(compare(trained, worst(nets[trained]), LENET5, worst(nets[LENET5])))
    return sentences


def gain(name: str, held: Tensor, natural: Tensor) -> str:
    """How many times as many samples hold out as of the naturally trained net."""
    ours, theirs = rate(held), rate(natural)
    least = ours.interval()[0] / theirs.interval()[1]
    ratio = f"{ours.value / theirs.value:.1f} times as many" if theirs.count else "beyond any ratio"
    return (
        f"{name}: {ours.count} of {ours.n} samples hold out against all attacks together, of the natural net "
        f"{theirs.count} of {theirs.n}: {ratio}. By the ends of the intervals that are farthest from this, "
        f"{least:.1f} times as many."
    )


def beyond(name: str, held: Held, gradient: list[str]) -> str:
    """What other attacks find where those that follow the loss's own gradient fail."""
    standing = worst({attack: held[attack] for attack in gradient})
    fallen = standing & ~worst(held)
    others = {attack: flags for attack, flags in held.items() if attack not in (*gradient, CLEAN)}
    by = ", ".join(f"{attack} {count(standing & ~flags)}" for attack, flags in others.items())
    text = (
        f"{name}: {count(standing)} of {standing.numel()} samples hold out against {' and '.join(gradient)}"
    )
    if not standing.any():
        return f"{text}."
    if not fallen.any():
        return f"{text}, and none of these falls to the other attacks."
    part = percent(rate(fallen[standing]))
    return f"{text}. Of these {count(fallen)} ({part}) fall to the other attacks ({by})."


def constant(case: Case, data: str) -> str:
    """Whether a net is robust because it always says the same."""
    results = {net: case.study[f"train: {net}"] for net in case.trained_nets() if net.data == data}
    largest = {str(net): max(found["predicted"]) / found["n"] for net, found in results.items()}
    fewest = min(sum(number > 0 for number in found["predicted"]) for found in results.values())
    name = max(largest, key=lambda net: largest[net])
    verdict = "one is close to a constant" if largest[name] > FEW else "none is a constant"
    return (
        f"On the held-out images each net predicts at least {fewest} of {CLASSES} classes, and none of them "
        f"for more than {100 * largest[name]:.0f}% ({name}): {verdict}."
    )
