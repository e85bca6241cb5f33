"""What stands below a figure, and what it says to those who cannot see it: both from the records. No torch."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from advlib import catalogue, claims, combinations, dissection, evidence, overfitting
from advlib.evidence import BRANCH_CASES, HEADINGS, STRONG, Group, rows_run, runs_of
from advlib.markup import counts
from advlib.records import Record
from advlib.statistics import Estimate

Words = dict[str, str]  # "caption" and "alt", for advlib.show.show
READABLE = 20  # classes side by side in a figure; of more, the hardest and the easiest are shown


def source(group: Group, rows: Iterable[str], *protocols: str, intervals: str = "95 % intervals") -> str:
    """Budget, data and seeds of what is drawn, in one sentence without markup. ``intervals``: "" where none are."""
    found = (runs_of(group, key, protocol) for key in rows for protocol in protocols)
    seeds = sorted({len(runs) for runs in found if runs})
    noun = "training" if seeds == [1] else "trainings"
    words = [f"Budget {group[0].budget}", group[0].data["title"], f"{counts(seeds)} {noun} a row", intervals]
    return f"{', '.join(filter(None, words))}."


def tradeoff(group: Group, columns: tuple[str, str] = ("fgsm-0.1", STRONG), part: int = 1) -> Words:
    sentences = []
    for protocol, column in zip(catalogue.PROTOCOLS, columns, strict=True):
        values = [
            f"{row.label} {_percent(evidence.accuracy(group, key, protocol, 'clean'))} clean and "
            f"{_percent(evidence.accuracy(group, key, protocol, column))} attacked"
            for key, row in rows_run(group, protocol, part=part).items()
        ]
        if values:
            sentences.append(f"{protocol.capitalize()} protocol under {HEADINGS[column]}: {', '.join(values)}.")
    return {
        "caption": "Clean accuracy against accuracy under attack, as the paper printed it and as measured here. Each "
        f"panel has its own axes. {source(group, catalogue.part(part), *catalogue.PROTOCOLS)}",
        "alt": f"Scatter plot in panels, a point a row of Table {part}. {' '.join(sentences)}",
    }


def learning(group: Group, protocol: str = "corrected") -> Words:
    last = [
        f"{row.label} {100 * np.mean([run.curve[-1]['clean_accuracy'] for run in runs_of(group, key, protocol)]):.0f} %"
        for key, row in rows_run(group, protocol).items()
    ]
    return {
        "caption": f"How the rows of Table 1 learn, {protocol} protocol: on training images as they are augmented and "
        f"attacked. {source(group, catalogue.part(1), protocol, intervals='')}",
        "alt": "Three panels against epochs: training loss, training accuracy on clean images and on adversarial "
        f"images. Clean training accuracy in the last epoch: {', '.join(last)}.",
    }


def against_eps(group: Group, protocol: str = "corrected") -> Words:
    values = _by_row(group, protocol, {"FGSM": "fgsm-8/255", "PGD-10": "pgd-10-8/255"})
    return {
        "caption": "Accuracy against the size of the attack. An honest curve falls towards 0 as eps grows, and PGD "
        f"lies below FGSM. Uniform noise of the same size is the control. Networks of the {protocol} protocol. "
        f"{source(group, catalogue.part(1), protocol)}",
        "alt": f"A small panel for each row of Table 1, accuracy falling with eps. At eps 8/255: {values}.",
    }


def against_steps(group: Group, protocol: str = "corrected") -> Words:
    values = _by_row(group, protocol, {"after 2 steps": "steps-2", "after 50": "steps-50"})
    return {
        "caption": "Accuracy against the number of steps of PGD at eps 8/255. Where a curve is flat, more steps of "
        f"this attack find nothing more. The paper's PGD takes two. Networks of the {protocol} protocol. "
        f"{source(group, catalogue.part(1), protocol, intervals='')}",
        "alt": f"A falling line for each row of Table 1. {values}.",
    }


def branches(group: Group, protocol: str = "corrected") -> Words:
    values = []
    found = {key: row for key, row in rows_run(group, protocol).items() if row.advprop}
    columns = [column for _, *both in BRANCH_CASES for column in both]
    for key, row in found.items():
        measured = evidence.by_corrected_rule(group, key, protocol, columns)
        main, auxiliary = (_percent(measured[column]) for column in (STRONG, f"{STRONG}:aux"))
        values.append(f"{row.label} main {main}, auxiliary {auxiliary}")
    return {
        "caption": "The two batch norms of AdvProp's networks, each classifying clean images, images attacked through "
        "itself, and images attacked through the other one. Through itself, an image is lost at the first error of two "
        "starts, under the surrogate gradient too where there is one; through the other, what counts is the last step "
        "of one start, under the true gradient. A network's dots are over the same images. "
        f"{protocol.capitalize()} protocol. {source(group, found, protocol)}",
        "alt": f"Three panels with two dots a network. Under PGD-20 through itself: {'; '.join(values)}.",
    }


def combined(crossings: Sequence[combinations.Crossing], group: Group) -> Words:
    values = []
    for crossing in crossings:
        for way, said in {combinations.KEPT: "kept", combinations.ANEW: "measured anew"}.items():
            measured = [f"{' + '.join(p)} {_percent(crossing.accuracy(way, p, STRONG))}" for p in combinations.PAIRS]
            label = f"{catalogue.rows()[crossing.key].name}, {crossing.protocol}"
            values.append(f"{label}, statistics {said}: {', '.join(measured)}")
    return {
        "caption": "The four networks inside each of AdvProp's: statistics of the branch named first, affine "
        "parameters of the one named second, each attacked through itself. Squares: with the statistics that training "
        "kept; dots: measured anew, on clean images for main and on attacked ones for aux. "
        f"{source(group, [crossing.key for crossing in crossings], *{crossing.protocol for crossing in crossings})}",
        "alt": f"A line of panels a network, a panel an attack, two dots for each of four networks. Under "
        f"{HEADINGS[STRONG]}: {'; '.join(values)}.",
    }


def factorial(group: Group) -> Words:
    found, design = [], catalogue.factorial().values()
    for protocol in catalogue.PROTOCOLS:
        for column in ("clean", STRONG):
            found += [
                f"{' x '.join(names)} on {HEADINGS[column]}, {protocol}: {100 * effect.value:+.1f}"
                for names, effect in (evidence.factorial(group, protocol, column) or {}).items()
                if effect.low > 0 or effect.high < 0
            ]
    return {
        "caption": "What AdvProp, ALS and SAT each change on top of adversarial training, on average over the presence "
        "of the others, and what they change together. An interval that crosses the line is compatible with no "
        f"effect. {source(group, design, *catalogue.PROTOCOLS)}",
        "alt": "Dots with intervals, an effect a line, a column a panel. Effects in points whose intervals exclude "
        f"zero: {'; '.join(found) or 'none'}.",
    }


def waterfall(group: Group, key: str, column: str) -> Words:
    walk = dissection.walk(group, key, column)
    effects = [f"{name} {100 * change.value:+.1f}" for name, change in zip(walk.names, walk.changes, strict=True)]
    first, last = _percent(walk.start), _percent(walk.end)
    over = f"{walk.end.n:,} images and {walk.end.seeds} {'training' if walk.end.seeds == 1 else 'trainings'}"
    return {
        "caption": f"{catalogue.rows()[key].label}, {HEADINGS[column]}: from the published to the corrected protocol, "
        f"a switch at a time; each bar starts where the last one ended. All are over the same {over} a protocol. "
        f"Budget {group[0].budget}, {group[0].data['title']}, 95 % intervals.",
        "alt": f"Waterfall from {first} to {last}; changes in points: {', '.join(effects)}.",
    }


def forest(rulings: Sequence[claims.Ruling], group: Group) -> Words:
    by_trial = [
        f"Under the {trial} protocol: "
        + "; ".join(f"{ruling.claim.title}: {ruling.verdict}" for ruling in rulings if ruling.trial == trial)
        for trial in catalogue.PROTOCOLS
    ]
    return {
        "caption": "Every comparison that a claim rests on: the difference in the paper, and the one measured here "
        "under either protocol. Intervals are as wide as the claim's number of comparisons asks; where several claims "
        "rest on a comparison, the widest. "
        f"{source(group, catalogue.rows(), *catalogue.PROTOCOLS, intervals='')}",
        "alt": f"Dots with intervals, a pair of rows a line, a column a panel. {'. '.join(by_trial)}.",
    }


def transfers(found: Mapping[tuple[str, str], Estimate]) -> Words:
    """``found``: as :func:`advlib.masking.transfers` has it."""
    sentences = []
    for target in dict.fromkeys(target for _, target in found):
        others = {source: e for (source, shown), e in found.items() if shown == target != source}
        worst = min(others, key=lambda source: others[source].value)
        sentences.append(
            f"{catalogue.unique_name(target)}: {_percent(found[target, target])} under its white box, "
            f"{_percent(others[worst])} under images made on {catalogue.unique_name(worst)}."
        )
    images = counts(sorted({e.n for e in found.values()}))
    return {
        "caption": f"Images of PGD-20 8/255 made on one row's network and shown to another's: of the first {images} "
        "test images, the percentage that is right without attack and under it. Framed: the white box.",
        "alt": f"Matrix of percentages. The white box and the worst of the other rows: {' '.join(sentences)}",
    }


def watched(found: Sequence[tuple[Record, overfitting.Watched]]) -> Words:
    """``found``: as :func:`advlib.overfitting.collect` has it."""
    sentences = []
    for record, seen in found:
        rates = ", ".join(_percent(seen.accuracy(overfitting.MANY, k + 1)) for k in range(len(seen.epochs)))
        name = f"{overfitting.label(record)}, {overfitting.verdict(seen, record)}"
        sentences.append(f"{name}: {seen.epochs[0][-1].column.replace('pgd-10-', 'PGD-10 ')} {rates}.")
    images = counts(sorted({seen.images for _, seen in found}))
    record, _ = found[0]
    return {
        "caption": "Accuracy after every epoch: under the attack of the training, on training images, and under FGSM "
        f"and PGD-10 of the largest size within its reach, on the first {images} test images, with 95 % intervals for "
        f"these. AdvProp through its auxiliary branch. Budget {record.budget}, {record.data['title']}, one training a "
        "panel.",
        "alt": f"Line charts, one a network, of accuracy by epoch. {' '.join(sentences)}",
    }


def worst_case(cases: Sequence) -> Words:
    """``cases``: of :func:`advlib.worst.cases`."""
    values = [
        f"{one.title} {_percent(one.strong)} under PGD-20, {_percent(one.after_all)} after AutoAttack and "
        f"{_percent(one.accuracy)} in the worst case"
        for one in cases
    ]
    sizes = counts(sorted({one.found.images for one in cases}))
    first = cases[0].record
    return {
        "caption": "What is left of each network under PGD-20, after AutoAttack, and in the worst case an image over "
        f"every attack of 8/255. Budget {first.budget}, {first.data['title']}, the first {sizes} test images, 95 % "
        "intervals.",
        "alt": f"Three dots with intervals for each network, a line a network: {'; '.join(values)}.",
    }


def per_class(group: Group, protocol: str = "corrected") -> Words:
    names = group[0].data["classes"]
    few = len(names) <= READABLE
    classes = ", ".join(names) if few else f"the {READABLE // 2} hardest and the {READABLE // 2} easiest"
    chosen = "" if few else f" Of {len(names)} classes {classes}, by the mean of the left panel's rows."
    return {
        "caption": f"Accuracy of each class in percent, {protocol} protocol, clean and under {HEADINGS[STRONG]}."
        f"{chosen} {source(group, catalogue.part(1), protocol, intervals='')}",
        "alt": f"Two tables as shades and numbers: a line for each row of Table 1, a column for each class: {classes}.",
    }


def _by_row(group: Group, protocol: str, columns: dict[str, str]) -> str:
    values = []
    for key, row in rows_run(group, protocol).items():
        measured = [
            f"{name} {_percent(evidence.accuracy(group, key, protocol, column))}" for name, column in columns.items()
        ]
        values.append(f"{row.label} {' and '.join(measured)}")
    return ", ".join(values)


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} %"
