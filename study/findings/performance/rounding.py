"""Whether training in half precision, or in the fast mode, changes the accuracies: the same rows in each. No torch."""

from study.evidence import comparisons
from study.evidence.comparisons import FOUR_COLUMNS, HEADINGS
from study.evidence.selection import Group, runs_of
from study.presentation import markup
from study.presentation.words import plural

EXACT = "adversarial-float32"
MODES = {EXACT: "float32", "adversarial": "by default", "adversarial-fast": "fast"}  # key -> how its training rounds


def comparison(group: Group) -> str:
    """Accuracies of Adversarial in each mode, and their differences to float32 over the seeds in common, as HTML."""
    body = []
    for key, mode in MODES.items():
        runs = runs_of(group, key, "corrected")
        if not runs:
            continue
        accuracies = comparisons.by_corrected_rule(group, key, "corrected", FOUR_COLUMNS)
        cells = [markup.accuracy(accuracies[column]) for column in FOUR_COLUMNS]
        body.append(markup.row(mode, [str(len(runs)), _rate(runs), *cells, markup.links(runs)]))
        if key != EXACT and (found := differences(group, key)):
            cells = [markup.points(found[column]) for column in FOUR_COLUMNS]
            body.append(markup.row(f"{mode} minus float32", ["", "", *cells, ""], "quiet"))
    if not body:
        return ""
    return markup.table(
        ["Training", "Seeds", "Images a second", *(HEADINGS[column] for column in FOUR_COLUMNS), "Runs"],
        body,
        "Adversarial, corrected protocol, trained in three ways. Accuracies in percent and differences in points, with "
        "95 % intervals, bold where 0 lies outside. The rates were taken beside other work and do not compare.",
    )


def said(group: Group) -> str:
    """Whether a mode differs from float32 for certain, in a sentence each; empty if nothing can be compared.

    By intervals that hold for all columns of both modes together (Bonferroni).
    """
    sentences, together = [], 1 - 0.05 / (len(FOUR_COLUMNS) * (len(MODES) - 1))
    for key, mode in MODES.items():
        found = differences(group, key, together) if key != EXACT else None
        if not found:
            continue
        seeds = len(comparisons.shared(group, [(key, "corrected", ""), (EXACT, "corrected", "")])[0])
        certain = [HEADINGS[column] for column, estimate in found.items() if estimate.sign]
        widest = max(max(abs(estimate.low), abs(estimate.high)) for estimate in found.values())
        verdict = (
            f"differs from float32 for certain in {', '.join(certain)}"
            if certain
            else f"differs from float32 in no column for certain; no interval reaches beyond {100 * widest:.1f} points"
        )
        sentences.append(f"Training {mode} {verdict} ({plural(seeds, 'seed')}).")
    return " ".join(sentences)


def differences(group: Group, key: str, confidence: float = 0.95) -> dict | None:
    """Column -> accuracy of the mode minus that of float32, paired by seed and image; None if they share no seed."""
    places = {
        column: ((key, "corrected", f"corrected:{column}"), (EXACT, "corrected", f"corrected:{column}"))
        for column in FOUR_COLUMNS
    }
    found = {column: comparisons.difference(group, *both, confidence) for column, both in places.items()}
    return None if None in found.values() else found


def _rate(runs: Group) -> str:
    rates = sorted(record.cost["training_images_per_second"] for record in runs)
    return f"{rates[0]:,.0f}" if len(rates) == 1 else f"{rates[0]:,.0f} to {rates[-1]:,.0f}"
