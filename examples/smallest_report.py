"""What examples/smallest.py has found, as a text."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fastadv.evaluation.robustness import markdown
from fastadv.evaluation.study import Study

OWN, FAILED = "fastadv", "failed"


def report(study: Study, images: Mapping[str, int], norms: Sequence[str]) -> str:
    """Tables by net and norm; `images` has the number of images of each net."""
    sections = ["# The smallest perturbation", conditions(study)]
    for net, number in images.items():
        sections.append(f"## {net}, {number} images")
        for norm in norms:
            found = {
                name.removeprefix(f"{net}: {norm}: "): part["result"]
                for name, part in study.parts.items()
                if name.startswith(f"{net}: {norm}: ")
            }
            sections += [f"### {norm}", table(found), verdict(found)]
    return "\n\n".join(sections) + "\n"


def conditions(study: Study) -> str:
    """How it was measured, in words."""
    digits, pictures = study.settings["digit_budget"], study.settings["picture_budget"]
    about = study.about
    return (
        "Images that the net classifies correctly, untargeted attacks. The distance is that of the result to "
        "the image, infinite where it is no success; norm 0 counts elements. An evaluation is one pass of "
        "one image through the model, with or without a backward pass; seconds are CPU time on one thread, "
        f"{about['workers']} attacks at a time, so compare them roughly. Carlini-Wagner takes "
        f"{digits['search_steps']} x {digits['steps']} steps in l2 ({pictures['search_steps']} x "
        f"{pictures['steps']} on pictures), and {digits['steps']} ({pictures['steps']}) in each descent of "
        f"the other norms, FMN and sigma-zero {digits['walk']} ({pictures['walk']}) in all; the rest is "
        f"each library's default, except that Adam's step in tanh space is {digits['lr']} "
        f"({pictures['lr']} on pictures), in linf half of it, and 0.01 in l0. "
        f"PyTorch {about['torch']}, {about['date']}."
    )


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row for each attack, the least median first."""
    rows = [
        [
            name,
            number(middle(result)),
            f"{sum(d is not None for d in result['distance'])} of {len(result['distance'])}",
            f"{result['evaluations']:.0f}",
            f"{result['seconds']:.1f}",
        ]
        for name, result in sorted(found.items(), key=lambda item: middle(item[1]))
        if FAILED not in result
    ]
    rows += [[name, result[FAILED], "", "", ""] for name, result in found.items() if FAILED in result]
    return markdown([["attack", "median distance", "successes", "evaluations", "seconds"], *rows])


def verdict(found: Mapping[str, Mapping[str, Any]]) -> str:
    """How the best of ours compares with the best of others."""
    found = {name: result for name, result in found.items() if FAILED not in result}
    own, other = (
        min(
            (name for name in found if name.startswith(OWN) == ours),
            key=lambda name: (middle(found[name]), found[name]["seconds"]),
        )
        for ours in (True, False)
    )
    nearer, farther = middle(found[own]), middle(found[other])
    if math.inf in (nearer, farther):
        return f"Least median: {own} {number(nearer)}, {other} {number(farther)}."
    compared = "the same median as"
    if nearer != farther:
        compared = (
            f"a median of {abs(1 - nearer / farther):.1%} {'less' if nearer < farther else 'more'} than"
        )
    ratio = found[own]["seconds"] / found[other]["seconds"]
    return f"{own} has {compared} the best of the others, {other}, in {ratio:.2f} of its time."


def middle(result: Mapping[str, Any]) -> float:
    """The median distance; inf if half fail."""
    if FAILED in result:
        return math.inf
    return median(math.inf if d is None else d for d in result["distance"])


def number(value: float) -> str:
    """Four digits, or words where more than half fail."""
    return "none: half fail" if math.isinf(value) else f"{value:.4g}"
