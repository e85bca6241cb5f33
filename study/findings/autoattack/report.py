"""The worst case of each image: what is left after every attack of one size that was ever run on it. No torch.

An attack that fails on an image says nothing of that image; one that succeeds settles it. So an image counts as right
only if it survived all attacks in the ball of 8/255 that were tried on it: those of the record, of the probe and of
AutoAttack (Croce and Hein 2020 report its four attacks the same way). More attacks can only lower this number, and it
stays an upper bound on what an attacker leaves.

Record and AutoAttack are of one network, but for its weights: the published ones, which AutoAttack and the probe see,
are rounded to 16 bits. :data:`beside.SAME_NETWORK` says how many clean predictions may differ by that.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from study.evidence import comparisons, estimates
from study.evidence.comparisons import HEADINGS, STRONG
from study.evidence.estimates import Spread
from study.evidence.selection import Group, runs_of
from study.findings.autoattack import judge
from study.findings.autoattack.judge import ATTACKS, Case
from study.findings.masking import report as masking
from study.findings.masking.judge import Verdict
from study.presentation.figures import PALETTE, style
from study.presentation.marks import dot, legend, rows_on_y
from study.presentation.markup import NOT_RUN, accuracy, counts, element, interval, links, row, span, table, together
from study.presentation.words import Words, percent, plural

FLAGS = {  # what AutoAttack's authors check: its name here, and the rule
    "randomised": (
        "randomised",
        f"Five passes of the same images must give the same logits, within {judge.RANDOMISED:g} of their length.",
    ),
    "probabilities": (
        "softmax output",
        "The output must be logits: probabilities, between 0 and 1 with a sum of 1, have gradients that vanish.",
    ),
    "optimises": (
        "optimisation inside",
        "The network must take no gradients while it classifies: a defence that adapts needs an attack made for it.",
    ),
    "zero-gradient": (
        "zero gradient",
        "Where APGD-T starts, at random in the ball, the gradient must not be 0 in all pixels of any image.",
    ),
    "square": (
        "Square finds more",
        f"Square must not find more than {100 * judge.SQUARE:g} % of the images after those that follow a gradient.",
    ),
}


def summary(cases: Sequence[Case]) -> str:
    """In sentences: how many networks and images, how far below PGD-20, who found it, and the flags."""
    if not cases:
        command = "python -m study measure autoattack advprop --budget lite --dataset cifar10-jpeg"
        return f"AutoAttack has not been run on any of these networks. For one whose weights are here: `{command}`."
    lowest = max(cases, key=lambda one: one.below.value)
    robust = max(cases, key=lambda one: one.accuracy.value)
    tried = sorted({len(one.masks) + len(one.found.attacks) for one in cases})
    below = 100 * lowest.below.value
    sizes = counts(sorted({one.found.images for one in cases}))
    sentences = (
        f"AutoAttack was run on {plural(len(cases), 'network')} and the first {sizes} test images.",
        f"With those of the record and the probe, {counts(tried)} attacks of 8/255 were tried on a network.",
        f"On the same images, the worst case is at most {below:.1f} percentage points below PGD-20 ({lowest.title}).",
        f"The most that is left of a network is {100 * robust.accuracy.value:.1f} % ({robust.title}).",
        _unfinished(cases),
        _latecomers(cases),
        _raised(cases),
    )
    return " ".join(filter(None, sentences))


def every_network(verdicts: Sequence[Verdict], cases: Sequence[Case], group: Group) -> str:
    """Every network as HTML: what PGD-20, AutoAttack and all attacks of 8/255 leave of it, and the signs of masking.

    Without AutoAttack's columns where it was run on none.
    """
    body, further = [], list(cases)
    for verdict in verdicts:
        of_it = [one for one in cases if _of(one) == (verdict.key, verdict.protocol, "main")]
        further = [one for one in further if one not in of_it]
        runs = links(runs_of(group, verdict.key, verdict.protocol))
        by_pgd = comparisons.accuracy(group, verdict.key, verdict.protocol, STRONG)
        left = [NOT_RUN, NOT_RUN] if cases else []
        if of_it:
            left = [
                together(accuracy(one.after_all) for one in of_it),
                together(accuracy(one.accuracy) for one in of_it),
            ]
        head = together([verdict.title, " ", span("interval", runs)])
        body.append(row(head, [accuracy(by_pgd), *left, masking.found(verdict)]))
    for one in further:  # the auxiliary branches, and experiments beyond the paper
        run = links([one.record])
        by_pgd = estimates.accuracy(one.under_pgd[None])
        left = [accuracy(by_pgd), accuracy(one.after_all), accuracy(one.accuracy), NOT_RUN]
        body.append(row(together([one.title, " ", span("interval", run)]), left))
    over = (
        "Worst case: over every attack of 8/255 that was run on the image. "
        f"It and AutoAttack are of run {counts(sorted({one.record.seed for one in cases}))} and {_sizes(cases)} test "
        "images; PGD-20 is of all runs named and of all their images, so it can be the lower number. "
        if cases
        else ""
    )
    heads = ["AutoAttack", "Worst case"] if cases else []
    return table(
        ["Method, training", HEADINGS[STRONG], *heads, "Sign of masking"],
        body,
        f"Images left right, in percent, with 95 % intervals. {over}Below a verdict: the checks that fail or are "
        "missing.",
    )


def worst_case(cases: Sequence[Case]) -> Figure:
    """PGD-20, AutoAttack and the worst case of every network, a line each."""
    kinds = {
        "PGD-20": (lambda one: one.strong, "s", PALETTE[1], -0.2),
        "AutoAttack": (lambda one: one.after_all, "D", PALETTE[2], 0.0),
        "worst case over all attacks": (lambda one: one.accuracy, "o", PALETTE[0], 0.2),
    }
    with style():
        figure, panel = plt.subplots(figsize=(7.2, 1.5 + 0.55 * len(cases)))
        for name, (measured, marker, colour, shift) in kinds.items():
            for position, one in enumerate(cases):
                dot(panel, measured(one), position + shift, colour, marker, name)
        rows_on_y(panel, [one.title for one in cases])
        panel.set(xlabel="accuracy under attacks of eps 8/255 (%)", xlim=(-0.5, None))
        legend(figure, 3)
    return figure


def worst_case_words(cases: Sequence[Case]) -> Words:
    values = [
        f"{one.title} {percent(one.strong)} under PGD-20, {percent(one.after_all)} after AutoAttack and "
        f"{percent(one.accuracy)} in the worst case"
        for one in cases
    ]
    sizes = counts(sorted({one.found.images for one in cases}))
    first = cases[0].record
    return {
        "caption": "What is left of each network under PGD-20, after AutoAttack, and in the worst case over every "
        f"attack of 8/255 on each image. Budget {first.budget}, {first.data['title']}, the first {sizes} test images, "
        "95 % intervals.",
        "alt": f"Three dots with intervals for each network, a line a network: {'; '.join(values)}.",
    }


def auxiliary(cases: Sequence[Case], group: Group) -> str:
    """What all four attacks leave of each auxiliary branch, beside adversarial training if that is there, as Markdown.

    The interval of a difference knows how much trainings of ``group`` differ, if they show it.
    """
    finished = {(*_of(one), one.record.seed): one for one in cases if one.found.attacks == ATTACKS}
    spread, said = comparisons.spread(group, f"corrected:{STRONG}"), []
    for (_, _, branch, seed), one in finished.items():
        if branch == "aux":
            left = f"AutoAttack leaves {percent(one.after_all)} of {one.found.images} images right in **{one.title}**"
            plain = finished.get(("adversarial", "corrected", "main", seed))
            said.append(f"{left}{_against(one, plain, spread) if plain else ''}.")
    return " ".join(said)


def _against(one: Case, other: Case, spread: Spread | None) -> str:
    n = min(one.found.images, other.found.images)
    gap = estimates.difference(one.found.left[None, :n], other.found.left[None, :n], spread=spread)
    return f", {interval(gap)} points from the {percent(other.after_all)} of {other.title}"


def flags(cases: Sequence[Case]) -> str:
    """AutoAttack's own checks as a list of definitions, as HTML: the rule, and the networks that raised it."""
    items = [
        part
        for flag, (title, rule) in FLAGS.items()
        for part in (element("dt", title), element("dd", rule, " ", element("em", _outcome(flag, cases))))
    ]
    return element("dl", *items, class_="rules")


def _of(one: Case) -> tuple[str, str, str]:
    return one.record.key, one.record.protocol, one.branch


def _sizes(cases: Sequence[Case]) -> str:
    return counts(sorted({one.found.images for one in cases})) if cases else "no"


def _unfinished(cases: Sequence[Case]) -> str:
    begun = [one for one in cases if one.found.attacks != ATTACKS]
    if not begun:
        return ""
    return f"Not all four attacks are finished on {len(begun)} of them: there the number may still fall."


def _latecomers(cases: Sequence[Case]) -> str:
    """How many images fell to FAB-T or Square alone, where all four are finished."""
    finished = [one for one in cases if one.found.attacks == ATTACKS]
    if not finished:
        return ""
    late = sum(int((one.found.after("apgd-t") & ~one.found.left).sum()) for one in finished)
    over = f"over the {plural(len(finished), 'network')} that all four were run on"
    return f"After APGD-CE and APGD-T, FAB-T and Square find {plural(late, 'further image')}, {over}."


def _raised(cases: Sequence[Case]) -> str:
    raised = {FLAGS[flag][0] for one in cases for flag, warning in one.found.flags.items() if warning}
    if not raised:
        return "None of AutoAttack's own checks raised a flag."
    return f"AutoAttack's own checks raised a flag: {', '.join(sorted(raised))}."


def _outcome(flag: str, cases: Sequence[Case]) -> str:
    checked = [one for one in cases if flag in one.found.flags]
    if not checked:
        return "Not checked yet." if cases else ""
    raised = [f"{one.title}: {one.found.flags[flag]}" for one in checked if one.found.flags[flag]]
    missing = f", {len(cases) - len(checked)} not checked" if len(checked) < len(cases) else ""
    return f"Of {plural(len(checked), 'network')}{missing}: {'; '.join(raised) or 'raised for none'}."
