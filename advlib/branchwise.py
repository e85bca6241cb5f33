"""AdvProp's two branches as they are read: one against the other, and what makes them differ. No torch.

The first half is from the records, the second from what :mod:`advlib.combinations` reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from advlib import catalogue, evidence, statistics, tables
from advlib.combinations import (
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
    Crossing,
    Split,
    certain,
)
from advlib.evidence import HEADINGS, STRONG, Group, rows_run
from advlib.markup import accuracy, change, counts, group_title, points, row, table
from advlib.statistics import Estimate

SAID = {KEPT: "statistics as training kept them", ANEW: "statistics measured anew"}
PARTS = {  # of a split, and of its line in the table
    "statistics": "statistics, from auxiliary instead of main",
    "affine": "affine parameters, likewise",
    "interaction": "statistics × affine",
    "branches": "both at once: the sum of the first two",
    "lead": "affine minus statistics",
}


@dataclass(frozen=True)
class Beside:
    """The two branches of one row under one protocol in one column: accuracies over the same images, and aux - main."""

    main: Estimate
    aux: Estimate
    gain: Estimate


Network = tuple[str, str]  # key, protocol


def beside(group: Group) -> dict[Network, dict[str, Beside]]:
    """Every row with AdvProp that was run, under both protocols of training, each branch attacked through itself.

    By the corrected rule, under both gradients where there are two. The intervals of a column's differences hold for
    all of its networks together.
    """
    networks = [
        (key, protocol)
        for protocol in catalogue.PROTOCOLS
        for part in catalogue.PARTS
        for key, paper in rows_run(group, protocol, part=part).items()
        if paper.advprop
    ]
    confidence = 1 - 0.05 / max(1, len(networks))
    return {
        network: {column: _beside(group, *network, column, confidence) for column in COLUMNS} for network in networks
    }


def _beside(group: Group, key: str, protocol: str, column: str, confidence: float) -> Beside:
    masks = evidence.paired(group, [(key, protocol, f"corrected:{column}{branch}") for branch in ("", ":aux")])
    return Beside(*map(statistics.accuracy, masks), statistics.difference(*reversed(masks), confidence))


def both_branches(group: Group) -> str:
    """The main branch against the auxiliary one for every row with AdvProp, as HTML; empty if none was run."""
    found = beside(group)
    if not found:
        return ""
    body = []
    for protocol in catalogue.PROTOCOLS:
        lines = [
            row(tables.title(catalogue.rows()[key]), [_before_after(one) for one in columns.values()])
            for (key, of), columns in found.items()
            if of == protocol
        ]
        if lines:
            body.append(
                f"<tbody>{group_title(f'{protocol} protocol of training', 1 + len(COLUMNS))}{''.join(lines)}</tbody>"
            )
    images = sorted({one.gain.n for columns in found.values() for one in columns.values()})
    caption = (
        "Accuracy in percent, main → auxiliary. Each branch is attacked through itself, by the corrected rule. Below, "
        "the difference in percentage points, paired by image, with an interval that holds for all networks of the "
        f"column together. Over {counts(images)} images."
    )
    return table(["Row", *(HEADINGS[column] for column in COLUMNS)], body, caption)


def _before_after(one: Beside) -> str:
    return f"{100 * one.main.value:.1f} → {100 * one.aux.value:.1f}{change(one.gain)}"


def which_is_robust(group: Group) -> str:
    """How many networks have which branch ahead, by protocol, clean and under the strong attack, as Markdown."""
    found = beside(group)
    sentences = []
    for protocol in catalogue.PROTOCOLS:
        of = [columns for (_, its), columns in found.items() if its == protocol]
        if of:
            said = [f"{where} {_ahead([columns[column].gain for columns in of])}" for column, where in _WHERE.items()]
            noun = "network" if len(of) == 1 else "networks"
            said = f"Of {len(of)} {noun} trained under the **{protocol}** protocol: {'; '.join(said)}."
            sentences.append(" ".join(filter(None, [said, _guessing(of, 1 / len(group[0].data["classes"]))])))
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _guessing(of: Sequence[dict[str, Beside]], guess: float) -> str:
    """A branch that says the same of every image cannot be fooled: no praise for it."""
    poor = [columns["clean"].aux.value for columns in of if columns["clean"].aux.value < 2 * guess]
    if not poor:
        return ""
    found = " to ".join(dict.fromkeys(f"{100 * share:.1f}" for share in (min(poor), max(poor))))
    return (
        f"But in {len(poor)} of them the auxiliary branch is right about {found} % of clean images, less than twice "
        "what guessing gives: what an attack leaves of such a branch is no robustness."
    )


_WHERE = {"clean": "on clean images", STRONG: f"under {HEADINGS[STRONG]}"}


def _ahead(gains: Sequence[Estimate]) -> str:
    signs = [certain(gain) for gain in gains]
    outcomes = {1: "the auxiliary branch is ahead", -1: "the main branch is ahead", 0: "the two are undecided"}
    return ", ".join(
        f"{said} in {signs.count(sign)} of {len(gains)}" for sign, said in outcomes.items() if sign in signs
    )


def four_networks(crossing: Crossing) -> str:
    """Accuracy of the four networks of one row, each attacked through itself, crossed either way, as HTML."""
    body = []
    for way in WAYS:
        lines = [
            row(pair_name(pair, way), [accuracy(crossing.accuracy(way, pair, column)) for column in COLUMNS])
            for pair in PAIRS
        ]
        body.append(f"<tbody>{group_title(SAID[way], 1 + len(COLUMNS))}{''.join(lines)}</tbody>")
    n, seeds = (getattr(crossing.accuracy(KEPT, MAIN, "clean"), part) for part in ("n", "seeds"))
    caption = (
        f"The four networks inside {title(crossing)}: accuracy in percent, each attacked through itself, with 95 % "
        f"intervals. {n:,} images, {seeds} {'training' if seeds == 1 else 'trainings'}. Statistics measured anew are "
        f"of {crossing.training_images:,} training images."
    )
    return table(["Statistics, affine", *(HEADINGS[column] for column in COLUMNS)], body, caption)


def effects(crossing: Crossing) -> str:
    """What the statistics and the affine parameters do to the accuracy of one row, crossed either way, as HTML."""
    body = []
    for way in WAYS:
        splits = [crossing.split(way, column) for column in COLUMNS]
        lines = [row(said, [points(getattr(split, part)) for split in splits]) for part, said in PARTS.items()]
        lines.append(row("the difference is carried by", [split.carrier for split in splits]))
        body.append(f"<tbody>{group_title(SAID[way], 1 + len(COLUMNS))}{''.join(lines)}</tbody>")
    caption = (
        f"Effects on the accuracy of {title(crossing)}, in percentage points. Each interval is of "
        f"{100 * CONFIDENCE:.2f} %, so that all comparisons of this network together are wrong once in twenty times; "
        "bold where it excludes 0."
    )
    return table(["Effect", *(HEADINGS[column] for column in COLUMNS)], body, caption)


def explained(crossing: Crossing) -> str:
    """What carries the difference between the branches under the strong attack, crossed either way, as Markdown."""
    main, aux = (100 * crossing.accuracy(KEPT, pair, STRONG).value for pair in (MAIN, AUX))
    said = [
        f"Under {HEADINGS[STRONG]} the main branch is right about {main:.1f} %, the auxiliary one about {aux:.1f} %."
    ]
    for way in WAYS:
        said.append(f"With {SAID[way]}, {_carried(crossing.split(way, STRONG))}")
        lost = crossing.lost(way)
        if certain(lost) < 0:
            said.append(
                "But so crossed, statistics and affine parameters do not fit each other: on clean images the better of "
                f"the two crossed networks differs from the worse branch by {_interval(lost)} points. These effects "
                "are of taking a pair apart as well as of its halves."
            )
    return f"**{title(crossing)}.** {' '.join(said)}"


def _carried(split: Split) -> str:
    parts = (
        f"of a difference of {_interval(split.branches)} points the affine parameters account for "
        f"{_interval(split.affine)} and the statistics for {_interval(split.statistics)}"
    )
    verdict = {
        AFFINE: "the **affine parameters** carry it",
        STATISTICS: "the **statistics** carry it",
        BOTH: "**both** carry it",
        UNDECIDED: "what carries it is **undecided**"
        if certain(split.branches)
        else "whether there is one is **undecided**",
    }
    return f"{parts}: {verdict[split.carrier]}."


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


def _counted(carriers: Sequence[str]) -> str:
    named = {word: carriers.count(word) for word in (AFFINE, STATISTICS, BOTH, UNDECIDED) if word in carriers}
    networks = "network" if len(carriers) == 1 else "networks"
    return ", ".join(f"{word} in {many} of {len(carriers)} {networks}" for word, many in named.items())


def missing(group: Group, crossings: Sequence[Crossing]) -> str:
    """The networks with two branches of which nobody measured the four, as a sentence of Markdown; empty if none."""
    measured = {(crossing.key, crossing.protocol) for crossing in crossings}
    absent = [network for network in beside(group) if network not in measured]
    if not absent:
        return ""
    every = len(beside(group))
    command = f"python -m advlib combine KEY {evidence.flags(group)}"
    return (
        f"Of {every} rows and protocols with two branches, the four networks were measured for {every - len(absent)}. "
        f"`{command}` does it in minutes, where the weights of a run are at hand."
    )


def title(crossing: Crossing) -> str:
    return f"{catalogue.rows()[crossing.key].name}, {crossing.protocol}"


def pair_name(pair: tuple[str, str], way: str) -> str:
    """A pair in words: whose statistics, whose affine parameters, and which branch that is, if it is one."""
    words = {"main": "main", "aux": "auxiliary"}
    branch = {MAIN: ": the main branch", AUX: ": the auxiliary branch"}.get(pair, "") if way == KEPT else ""
    return f"{words[pair[0]]}, {words[pair[1]]}{branch}"


def _interval(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} ({100 * e.low:+.1f} to {100 * e.high:+.1f})"
