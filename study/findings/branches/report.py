"""AdvProp's two branches as they are read: one against the other, and what makes them differ. No torch.

One against the other they are from the records; what makes them differ is from what :mod:`branches.judge` reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from study.evidence import comparisons, estimates
from study.evidence.comparisons import HEADINGS, STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group, rows_run, runs_of
from study.findings.branches.judge import (
    AFFINE,
    ANEW,
    AUX,
    BOTH,
    COLUMNS,
    CONFIDENCE,
    KEPT,
    MAIN,
    PAIRS,
    STATISTICS,
    UNDECIDED,
    WAYS,
    Combinations,
    Crossing,
    Split,
)
from study.plan import catalogue
from study.presentation import sentences
from study.presentation.figures import PALETTE, style
from study.presentation.marks import dot, legend, rows_on_y
from study.presentation.markup import (
    accuracy,
    change,
    counts,
    element,
    group_title,
    interval,
    points,
    row,
    table,
    together,
)
from study.presentation.words import Words, percent, plural, source, where
from study.records.literal import code

SAID = {KEPT: "statistics as training kept them", ANEW: "statistics measured anew"}
PARTS = {  # of a split, and of its line in the table
    "statistics": "statistics, from auxiliary instead of main",
    "affine": "affine parameters, likewise",
    "interaction": "statistics × affine",
    "branches": "both at once: the sum of the first two",
    "lead": "affine minus statistics",
}
Network = tuple[str, str]  # key, protocol


@dataclass(frozen=True)
class TwoBranches:
    """The two branches of one row under one protocol in one column: accuracies over the same images, and aux - main."""

    main: Estimate
    aux: Estimate
    gain: Estimate


def which_is_robust(group: Group) -> str:
    """How many networks have which branch ahead, by protocol, clean and under the strong attack, as Markdown."""
    found = two_branches(group)
    lines = []
    for protocol in catalogue.PROTOCOLS:
        of = [columns for (_, its), columns in found.items() if its == protocol]
        if of:
            gains = {column: [columns[column].gain for columns in of] for column in ("clean", STRONG)}
            said = [f"{where(column)} {_ahead(of_column)}" for column, of_column in gains.items()]
            said = f"Of {plural(len(of), 'network')} trained under the **{protocol}** protocol: {'; '.join(said)}."
            lines.append(" ".join(filter(None, [said, _guessing(of, 1 / len(group[0].data["classes"]))])))
    return "\n".join(f"- {line}" for line in lines)


def both_branches(group: Group) -> str:
    """The main branch against the auxiliary one for every row with AdvProp, as HTML; empty if none was run."""
    found = two_branches(group)
    if not found:
        return ""
    body = []
    for protocol in catalogue.PROTOCOLS:
        lines = [
            row(sentences.title(catalogue.rows()[key]), [_before_after(one) for one in columns.values()])
            for (key, of), columns in found.items()
            if of == protocol
        ]
        if lines:
            trained = group_title(f"{protocol} protocol of training", 1 + len(COLUMNS))
            body.append(element("tbody", trained, *lines))
    images = sorted({one.gain.n for columns in found.values() for one in columns.values()})
    caption = (
        "Accuracy in percent, main → auxiliary. Each branch is attacked through itself, by the corrected rule. Below, "
        "the difference in percentage points, paired by image, with an interval that holds for all networks of the "
        f"column together. Over {counts(images)} images."
    )
    return table(["Method", *(HEADINGS[column] for column in COLUMNS)], body, caption)


def two_branches(group: Group) -> dict[Network, dict[str, TwoBranches]]:
    """Every row with AdvProp that was run, under both protocols of training, each branch attacked through itself.

    By the corrected rule, under both gradients where there are two. The intervals of a column's differences hold for
    all of its networks together.
    """
    networks = [
        (key, protocol)
        for protocol in catalogue.PROTOCOLS
        for part in catalogue.PARTS
        for key, paper in rows_run(group, protocol, part=part).items()
        if paper.advprop and catalogue.twin(key) is None
    ]
    confidence = 1 - 0.05 / max(1, len(networks))
    return {
        network: {column: _of_column(group, *network, column, confidence) for column in COLUMNS} for network in networks
    }


def answer(crossings: Sequence[Crossing]) -> str:
    """The answer to AdvProp's open question that follows from the numbers, over all networks, as Markdown."""
    carriers = {way: [crossing.split(way, STRONG).carrier for crossing in crossings] for way in WAYS}
    said = [f"With {SAID[way]}: {_counted(carriers[way])}." for way in WAYS]
    moved = [f"{100 * crossing.split(ANEW, STRONG).statistics.value:+.1f}" for crossing in crossings]
    said.append(
        "Measured anew through the same affine parameters, statistics of attacked instead of clean images change "
        f"accuracy by {' and '.join(moved)} points."
    )
    anew = set(carriers[ANEW])
    if anew == {AFFINE}:
        said.append("That the affine parameters matter is what Zhang et al. report.")
    elif STATISTICS in anew:
        said.append("That is not what Zhang et al. report, who find that the affine parameters do.")
    else:
        said.append(
            "So what Zhang et al. report, that the affine parameters do, is neither confirmed nor refuted here."
        )
    if all(crossing.accuracy(KEPT, MAIN, "clean").seeds == 1 for crossing in crossings):
        said.append("One training of each network was measured: the intervals are over images, not over trainings.")
    return f"**What makes the branches differ under {HEADINGS[STRONG]}?** {' '.join(said)}"


def crossed(crossings: Sequence[Crossing]) -> Figure:
    """The four networks inside each of AdvProp's: a line of panels a network, a panel an attack, a dot a way to cross.

    Raises ValueError while none was measured.
    """
    if not crossings:
        command = "python -m study measure branches advprop --budget lite --dataset cifar10-jpeg"
        raise ValueError(f"no four networks to draw: `{command}` measures them")
    looks = {KEPT: (-0.14, PALETTE[1], "s"), ANEW: (0.14, PALETTE[0], "o")}
    with style():
        size = (9.8, 1.0 + 1.75 * len(crossings))
        figure, lines = plt.subplots(
            len(crossings), len(COLUMNS), figsize=size, sharex="col", sharey=True, squeeze=False
        )
        for panels, crossing in zip(lines, crossings, strict=True):
            for panel, column in zip(panels, COLUMNS, strict=True):
                for way, (offset, *look) in looks.items():
                    for position, pair in enumerate(PAIRS):
                        dot(panel, crossing.accuracy(way, pair, column), position + offset, *look, SAID[way])
                panel.set_title(HEADINGS[column])
                panel.set_xlim(0, None)
            rows_on_y(panels[0], [" + ".join(pair) for pair in PAIRS])
            panels[0].set_ylabel(f"{crossing.title.replace(', ', chr(10))}\n", fontsize=9)
        for panel in lines[-1]:
            panel.set_xlabel("accuracy (%)")
        figure.supylabel("statistics + affine parameters", fontsize=10)
        legend(figure, 2)
    return figure


def crossed_words(crossings: Sequence[Crossing], group: Group) -> Words:
    values = []
    for crossing in crossings:
        for way, said in {KEPT: "kept", ANEW: "measured anew"}.items():
            measured = [f"{' + '.join(p)} {percent(crossing.accuracy(way, p, STRONG))}" for p in PAIRS]
            values.append(f"{crossing.title}, statistics {said}: {', '.join(measured)}")
    return {
        "caption": "The four networks inside each of AdvProp's: statistics of the branch named first, affine "
        "parameters of the one named second, each attacked through itself. Squares: with the statistics that training "
        "kept; dots: measured anew, on clean images for main and on attacked ones for aux. "
        f"{source(group, [crossing.key for crossing in crossings], *{crossing.protocol for crossing in crossings})}",
        "alt": f"A line of panels a network, a panel an attack, two dots for each of four networks. Under "
        f"{HEADINGS[STRONG]}: {'; '.join(values)}.",
    }


def explained(crossing: Crossing) -> str:
    """What carries the difference between the branches under the strong attack, crossed either way, as Markdown."""
    main, aux = (100 * crossing.accuracy(KEPT, pair, STRONG).value for pair in (MAIN, AUX))
    said = [
        f"Under {HEADINGS[STRONG]} the main branch is right about {main:.1f} %, the auxiliary one about {aux:.1f} %."
    ]
    for way in WAYS:
        said.append(f"With {SAID[way]}, {_carried(crossing.split(way, STRONG))}")
        lost = crossing.lost(way)
        if lost.sign < 0:
            said.append(
                "But so crossed, statistics and affine parameters do not fit each other: on clean images the better of "
                f"the two crossed networks differs from the worse branch by {interval(lost)} points. So these effects "
                "may come from the mismatch."
            )
    return f"**{crossing.title}.** {' '.join(said)}"


def missing(group: Group, crossings: Sequence[Crossing]) -> str:
    """The networks with two branches of which nobody measured the four, as a sentence of Markdown; empty if none."""
    measured = {(crossing.key, crossing.protocol) for crossing in crossings}
    networks = two_branches(group)
    left = [network for network in networks if network not in measured]
    if not left:
        return ""
    command = Combinations.command(runs_of(group, *left[0])[0])
    return (
        f"Of {len(networks)} networks with two branches, the four networks were measured for "
        f"{len(networks) - len(left)}. {code(command)} does it for the next in minutes, where the weights of its run "
        "are at hand."
    )


def effects(crossing: Crossing) -> str:
    """What the statistics and the affine parameters do to the accuracy of one row, crossed either way, as HTML."""
    body = []
    for way in WAYS:
        splits = [crossing.split(way, column) for column in COLUMNS]
        lines = [row(said, [points(getattr(split, part)) for split in splits]) for part, said in PARTS.items()]
        lines.append(row("the difference is carried by", [split.carrier for split in splits]))
        body.append(element("tbody", group_title(SAID[way], 1 + len(COLUMNS)), *lines))
    caption = (
        f"Effects on the accuracy of {crossing.title}, in percentage points. Each interval is of "
        f"{100 * CONFIDENCE:.2f} %, so that all comparisons of this network together are wrong once in twenty times; "
        "bold where it excludes 0."
    )
    return table(["Effect", *(HEADINGS[column] for column in COLUMNS)], body, caption)


def four_networks(crossing: Crossing) -> str:
    """Accuracy of the four networks of one row, each attacked through itself, crossed either way, as HTML."""
    body = []
    for way in WAYS:
        lines = [
            row(pair_name(pair, way), [accuracy(crossing.accuracy(way, pair, column)) for column in COLUMNS])
            for pair in PAIRS
        ]
        body.append(element("tbody", group_title(SAID[way], 1 + len(COLUMNS)), *lines))
    n, seeds = (getattr(crossing.accuracy(KEPT, MAIN, "clean"), part) for part in ("n", "seeds"))
    caption = (
        f"The four networks inside {crossing.title}: accuracy in percent, each attacked through itself, with 95 % "
        f"intervals. {n:,} images, {plural(seeds, 'training')}. Statistics measured anew are "
        f"of {crossing.training_images:,} training images."
    )
    return table(["Statistics, affine", *(HEADINGS[column] for column in COLUMNS)], body, caption)


def pair_name(pair: tuple[str, str], way: str) -> str:
    """A pair in words: whose statistics, whose affine parameters, and which branch that is, if it is one."""
    words = {"main": "main", "aux": "auxiliary"}
    branch = {MAIN: ": the main branch", AUX: ": the auxiliary branch"}.get(pair, "") if way == KEPT else ""
    return f"{words[pair[0]]}, {words[pair[1]]}{branch}"


def _of_column(group: Group, key: str, protocol: str, column: str, confidence: float) -> TwoBranches:
    masks = comparisons.paired(group, [(key, protocol, f"corrected:{column}{branch}") for branch in ("", ":aux")])
    return TwoBranches(*map(estimates.accuracy, masks), estimates.difference(*reversed(masks), confidence))


def _before_after(one: TwoBranches) -> str:
    return together([f"{100 * one.main.value:.1f} → {100 * one.aux.value:.1f}", change(one.gain)])


def _ahead(gains: Sequence[Estimate]) -> str:
    signs = [gain.sign for gain in gains]
    outcomes = {1: "the auxiliary branch is ahead", -1: "the main branch is ahead", 0: "the two are undecided"}
    return ", ".join(
        f"{said} in {signs.count(sign)} of {len(gains)}" for sign, said in outcomes.items() if sign in signs
    )


def _guessing(of: Sequence[dict[str, TwoBranches]], guess: float) -> str:
    """A branch that says the same of every image cannot be fooled: no praise for it."""
    poor = [columns["clean"].aux.value for columns in of if columns["clean"].aux.value < 2 * guess]
    if not poor:
        return ""
    found = " to ".join(dict.fromkeys(f"{100 * share:.1f}" for share in (min(poor), max(poor))))
    return (
        f"But in {len(poor)} of them the auxiliary branch is right about {found} % of clean images, less than twice "
        "what guessing gives: what an attack leaves of such a branch is no robustness."
    )


def _carried(split: Split) -> str:
    parts = (
        f"of a difference of {interval(split.branches)} points the affine parameters account for "
        f"{interval(split.affine)} and the statistics for {interval(split.statistics)}"
    )
    verdict = {
        AFFINE: "the **affine parameters** carry it",
        STATISTICS: "the **statistics** carry it",
        BOTH: "**both** carry it",
        UNDECIDED: "what carries it is **undecided**"
        if split.branches.sign
        else "whether there is one is **undecided**",
    }
    return f"{parts}: {verdict[split.carrier]}."


def _counted(carriers: Sequence[str]) -> str:
    named = {word: carriers.count(word) for word in (AFFINE, STATISTICS, BOTH, UNDECIDED) if word in carriers}
    return ", ".join(f"{word} in {many} of {plural(len(carriers), 'network')}" for word, many in named.items())
