"""The report of examples/odds.py: tables, and sentences that the figures choose."""

import math
from collections.abc import Mapping

from fastadv.defenses.odds_statistics import normal_cutoff
from fastadv.evaluation import roc
from fastadv.evaluation.robustness import markdown
from fastadv.evaluation.statistics import Rate, sign_test
from fastadv.models.datasets import CLASSES
from odds_attacks import (
    CLEAN,
    CONFIDENT_CW,
    CW_ROW,
    EOT_MATCHING,
    EVASION,
    FGSM_ROW,
    MATCHING,
    STOPPING,
    pgd_name,
)
from odds_case import Case, Subject
from odds_splits import summary
from odds_verdicts import MAIN, VARIANTS, Scored, Variant, on_box

LEVEL = 0.05
"""A p-value below it counts as a difference."""
FAR = 0.9
"""With such an area a score tells attacked from clean images: nine of ten pairs are ordered rightly."""
MOST = 0.5
MARGIN = 3
"""So many binomial standard deviations may a rate lie from its target."""


def report(case: Case) -> str:
    """All of it, in Markdown."""
    s = case.settings
    parts = [
        "# The odds are odd",
        f"linf, eps {s.at:g} where nothing else is said; {s.draws} noisy copies of an image. Rates are in %, "
        "with Wilson's 95% interval. Only adversarial samples that succeed count as positives: right before "
        f"the attack, wrong after it. Cutoffs come from {s.held_out_images} held-out clean images.",
    ]
    for subject in case.subjects:
        parts += [
            f"## {subject.name}",
            markdown(tuning(case, subject)),
            "### False positives on clean test images",
            markdown(false_positives(case, subject)),
            f"### False positives over {s.splits} divisions of the same images",
            markdown(divisions(case, subject)),
            *(
                part
                for variant in VARIANTS
                for part in (f"### Detection: {variant}", markdown(detection(case, subject, variant)))
            ),
            f"### Accuracy with and without correction: {MAIN}",
            markdown(correction(case, subject)),
            "### Reading",
            "\n".join(f"- {sentence}" for sentence in reading(case, subject)),
        ]
    return "\n\n".join(parts) + "\n"


def tuning(case: Case, subject: Subject) -> list[list[str]]:
    """The noise that was chosen, and its rates on samples that had no part in the choice."""
    header = [
        "noisy copies",
        "chosen",
        "true positives, chosen by",
        "true positives",
        "false positives",
        "area",
    ]
    lines = []
    for clipped in (True, False):
        found = case.tuning_of(subject, clipped)
        kind, scale = found["chosen"]
        flattering = max(tpr for *_, tpr, _ in found["tried"])
        lines.append(
            [
                on_box(clipped),
                f"{kind} {scale:g}",
                f"{100 * flattering:.1f}",
                *(cell(Rate(*found[name])) for name in ("true positives", "false positives")),
                f"{found['area']:.3f}",
            ]
        )
    return [header, *lines]


def false_positives(case: Case, subject: Subject) -> list[list[str]]:
    """How many clean test images are flagged, and how far that is from what was asked for."""
    lines = []
    for variant in VARIANTS:
        clean = case.scored(subject, CLEAN, variant)
        for fpr in case.settings.fpr:
            found = clean.flagged(case.cutoff(subject, variant, fpr))
            normal = clean.flagged(normal_cutoff(fpr, (CLASSES - 1) * (1 + variant.two_sided)))
            lines.append(
                [str(variant), f"{100 * fpr:g}", cell(found), f"{off(found, fpr):+.1f}", cell(normal)]
            )
    return [["test", "target", "flagged", "standard deviations off", "with the normal cutoff"], *lines]


def divisions(case: Case, subject: Subject) -> list[list[str]]:
    """False positives where the images are divided at random, again and again."""
    s = case.settings
    header = ["test", "target", "mean", "standard deviation", "binomial", "with the cutoff's"]
    header += ["% within 3 binomial", "% within 3 with the cutoff's"]
    lines = []
    for variant in VARIANTS:
        for fpr in s.fpr:
            counts = case.divided(subject, variant, fpr)
            found = summary(counts, s.test_images, fpr, s.held_out_images)
            lines.append([str(variant), f"{100 * fpr:g}", *found])
    return [header, *lines]


def detection(case: Case, subject: Subject, variant: Variant) -> list[list[str]]:
    """A line for each attack: successes, area, rates at each cutoff, and what gets by."""
    s = case.settings
    cutoffs = [case.cutoff(subject, variant, fpr) for fpr in s.fpr]
    header = ["attack", "successes of n", "keep their class under noise", "area"]
    header += [f"flagged at {100 * fpr:g}%" for fpr in s.fpr]
    header.append(f"succeed unseen at {100 * s.fpr[-1]:g}%")
    lines = []
    for name in case.rows:
        if name == CLEAN:
            continue
        found = case.scored(subject, name, variant)
        successes = int(found.success.sum())
        line = [name, f"{successes} of {len(found.success)}"]
        if successes:
            line.append(f"{100 * found.survival():.1f}")
            line.append(f"{case.roc(subject, name, variant).area:.3f}")
            line += [cell(found.flagged(cutoff)) for cutoff in cutoffs]
        else:
            line += ["-"] * (2 + len(cutoffs))
        lines.append([*line, cell(found.unseen(cutoffs[-1]))])
    return [header, *lines]


def correction(case: Case, subject: Subject) -> list[list[str]]:
    """The accuracy on attacked images, successful or not, as they are and corrected where flagged."""
    s = case.settings
    cutoffs = [None, *(case.cutoff(subject, MAIN, fpr) for fpr in s.fpr)]
    header = ["attack", "n", "as it is", *(f"corrected where flagged at {100 * fpr:g}%" for fpr in s.fpr)]
    lines = []
    for name in case.rows:
        found = case.scored(subject, name, MAIN)
        lines.append([name, str(len(found.y)), *(cell(found.accuracy(cutoff)) for cutoff in cutoffs)])
    return [header, *lines]


def reading(case: Case, subject: Subject) -> list[str]:
    """What the tables say."""
    s = case.settings
    asked, pgd = s.fpr[-1], pgd_name(s.at)
    cutoff = case.cutoff(subject, MAIN, asked)
    found = {name: case.scored(subject, name, MAIN) for name in case.rows}
    rates = {
        f"{variant} at {100 * fpr:g}%": (
            fpr,
            case.scored(subject, CLEAN, variant).flagged(case.cutoff(subject, variant, fpr)),
        )
        for variant in VARIANTS
        for fpr in s.fpr
    }
    chain = [
        (pgd, STOPPING),
        (pgd, CW_ROW),
        (pgd, CONFIDENT_CW),
        (pgd, MATCHING),
        (MATCHING, EOT_MATCHING),
        (EOT_MATCHING, EVASION),
    ]
    return [
        promise(rates, s.held_out_images),
        *(
            against_clean(name, found[name], found[CLEAN], cutoff)
            for name in (*map(pgd_name, s.eps), STOPPING, FGSM_ROW, CW_ROW, CONFIDENT_CW)
        ),
        *(cuts(first, found[first], second, found[second], cutoff) for first, second in chain),
        *(survives(pgd, found[pgd], name, found[name]) for name in (STOPPING, CW_ROW, CONFIDENT_CW)),
        *(
            ended(
                f"{name} ({variant})",
                case.scored(subject, name, variant),
                case.cutoff(subject, variant, asked),
                asked,
            )
            for name in (EOT_MATCHING, EVASION)
            for variant in VARIANTS
        ),
        *(
            by_area(change, case, subject, other)
            for change, other in (
                ("Without clamping noisy copies to the box", Variant(clipped=False, two_sided=False)),
                ("With |z| in place of z", Variant(clipped=True, two_sided=True)),
            )
        ),
        corrects(pgd, found[pgd], found[CLEAN], cutoff),
    ]


def promise(rates: Mapping[str, tuple[float, Rate]], held_out: int) -> str:
    """Whether false positives are as rare as asked for.

    Args:
        rates: by test, what was asked for and what was found.
        held_out: the number of images that the cutoffs are from: they are estimates, too.
    """
    far = [name for name, (fpr, rate) in rates.items() if abs(off(rate, fpr)) > MARGIN]
    # The rate of a given cutoff and the cutoff's own error are independent: their variances add up.
    beyond = [name for name, (fpr, rate) in rates.items() if abs(off(rate, fpr, held_out)) > MARGIN]
    verdict = f"all but {'; '.join(far)}" if far else "the cutoffs from held-out images keep their promise"
    return (
        f"{len(rates) - len(far)} of {len(rates)} rates of false positives lie within {MARGIN} binomial "
        f"standard deviations of their target: {verdict}. Where it is counted that the cutoffs are estimated "
        f"from {held_out} images, {len(rates) - len(beyond)} of {len(rates)} do."
    )


def off(rate: Rate, target: float, held_out: float = math.inf) -> float:
    """By how many standard deviations a rate lies above its target.

    Args:
        rate: found.
        target: asked for.
        held_out: the number of images that the cutoff is from; math.inf takes it for exact.
    """
    return (rate.value - target) / math.sqrt(target * (1 - target) * (1 / rate.n + 1 / held_out))


def against_clean(name: str, attacked: Scored, clean: Scored, cutoff: float) -> str:
    """Whether an attack is flagged more often than clean images, as the survey says of PGD."""
    if not attacked.success.any():
        return f"{name}: it never succeeds, so there is nothing to flag."
    flagged, mistaken = attacked.flagged(cutoff), clean.flagged(cutoff)
    area = roc(clean.positives(), attacked.positives()).area
    if flagged.interval()[0] <= mistaken.interval()[1]:
        verdict = (
            "it is not shown to be flagged more often than clean images, and the survey is not borne out"
        )
    elif area >= FAR:
        verdict = "it is flagged far more often than clean images, as the survey says"
    else:
        verdict = (
            "it is flagged more often than clean images, but not far more: less than the survey suggests"
        )
    return (
        f"{name}: {percent(flagged)} of {flagged.n} are flagged, and of the clean images "
        f"{percent(mistaken)}; area {area:.3f}: {verdict}."
    )


def cuts(first: str, found: Scored, second: str, found_by_second: Scored, cutoff: float) -> str:
    """Whether the second attack is detected less than the first, on the samples on which both succeed."""
    n = min(len(found.success), len(found_by_second.success))
    both = found.success[:n] & found_by_second.success[:n]
    flags, other_flags = (part.score[:n][both] > cutoff for part in (found, found_by_second))
    alone, other = int((flags & ~other_flags).sum()), int((other_flags & ~flags).sum())
    p = sign_test(alone, other)
    if p >= LEVEL:
        verdict = "no difference is shown"
    else:
        verdict = f"{second} is flagged {'less' if alone > other else 'more'} often than {first}"
    return (
        f"{first} against {second}: of {int(both.sum())} images on which both succeed {int(flags.sum())} and "
        f"{int(other_flags.sum())} are flagged, {alone} by the first alone and {other} by the second alone "
        f"(p = {p:.2g}): {verdict}."
    )


def survives(first: str, found: Scored, second: str, found_by_second: Scored) -> str:
    """Whether what the second attack makes keeps its class under noise more often than what the first makes.

    By the sign test on the images on which both succeed.
    """
    n = min(len(found.success), len(found_by_second.success))
    both = found.success[:n] & found_by_second.success[:n]
    if not both.any():
        return f"{first} against {second}, under noise: there is no image on which both succeed."
    kept, kept_by_second = (part.kept[:n][both] for part in (found, found_by_second))
    less, more = int((kept > kept_by_second).sum()), int((kept < kept_by_second).sum())
    p = sign_test(less, more)
    verdict = (
        "no difference is shown"
        if p >= LEVEL
        else (f"{second} survives noise {'better' if more > less else 'worse'} than {first}")
    )
    return (
        f"{first} against {second}, under noise: of {int(both.sum())} images on which both succeed "
        f"{100 * float(kept.mean()):.1f}% and {100 * float(kept_by_second.mean()):.1f}% of noisy copies keep "
        f"the class that the attack gave them, more of the second's for {more} images and fewer for {less} "
        f"(p = {p:.2g}): {verdict}."
    )


def ended(name: str, found: Scored, cutoff: float, fpr: float) -> str:
    """Whether an attack that knows the test leaves anything of it."""
    if not found.success.any():
        return f"{name}: it never succeeds, so the test is not put to the proof."
    flagged, unseen = found.flagged(cutoff), found.unseen(cutoff)
    if unseen.value < MOST:
        verdict = "most samples hold out or are flagged: against this attack the test is of use"
    elif off(flagged, fpr) <= MARGIN:
        verdict = "what succeeds is flagged no more often than clean images: that is the end of the test"
    else:
        verdict = "most samples succeed unseen, though the test still tells something"
    return (
        f"{name}: {flagged.n} of {unseen.n} succeed, {percent(flagged)} of these are flagged, "
        f"{percent(unseen)} of all succeed unseen: {verdict}."
    )


def by_area(change: str, case: Case, subject: Subject, other: Variant) -> str:
    """What another way to test does to the areas of the attacks that know nothing of it."""
    areas = {
        name: tuple(case.roc(subject, name, variant).area for variant in (MAIN, other))
        for name, row in case.rows.items()
        if row.knows == "nothing" and name != CLEAN and case.scored(subject, name, MAIN).success.any()
    }
    if not areas:
        return f"{change}: no attack succeeds, so there is nothing to compare."
    worse = [name for name, (before, after) in areas.items() if after < before]
    listed = ", ".join(f"{name} {before:.3f} to {after:.3f}" for name, (before, after) in areas.items())
    return f"{change} the area changes: {listed}. It falls for {len(worse)} of {len(areas)} attacks."


def corrects(name: str, attacked: Scored, clean: Scored, cutoff: float) -> str:
    """What the correction gains under attack, and what it costs without."""
    gained = attacked.accuracy(cutoff).value - attacked.accuracy(None).value
    lost = clean.accuracy(None).value - clean.accuracy(cutoff).value
    verdict = "it gains more than it costs" if gained > lost else "it costs more than it gains"
    return (
        f"Correction takes the accuracy under {name} from {percent(attacked.accuracy(None))} to "
        f"{percent(attacked.accuracy(cutoff))}, and on clean images from {percent(clean.accuracy(None))} to "
        f"{percent(clean.accuracy(cutoff))}: {verdict}."
    )


def cell(rate: Rate) -> str:
    """A rate in per cent with its interval and n."""
    low, high = rate.interval()
    return f"{100 * rate.value:.1f} [{100 * low:.1f}, {100 * high:.1f}] n={rate.n}"


def percent(rate: Rate) -> str:
    """A rate in per cent."""
    return f"{100 * rate.value:.1f}%"
