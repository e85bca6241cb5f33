"""From the published protocol to the corrected one, a switch at a time: what each difference does. No torch.

Two kinds of switch. Those of *evaluation* look at one trained network in two ways. Those of *training* need
another network, whose effect is looked at by one rule of evaluation. Every effect is a paired difference in accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from advlib import catalogue, evidence, statistics
from advlib.evidence import HEADINGS, Group, Place
from advlib.markup import accuracy, counts, group_title, points, row, table
from advlib.statistics import Estimate

DISSECTED = ("adversarial", "advprop")
RULES = {  # the published rule of evaluation, with one of its habits dropped, and with all of them dropped
    "published, running statistics": "running statistics instead of the test batch's own",
    "published, pixels": "attack and clamp in pixels instead of standard deviations",
    "corrected": "both: the corrected rule",
}
TRAINING = {
    "space": "training attack in pixels instead of standard deviations",
    "mode": "training attack in evaluation mode: it moves no statistics",
    "branch": "training attack through the auxiliary branch instead of the main one",
    "layers": "a second batch norm in all layers instead of all but the shortcuts'",
    "update": "one step on both halves instead of a step on each",
    "loss": "ALS by log-softmax instead of log(softmax + 1e-8)",
    "schedule": "the corrected learning rate schedule",
    "augmentation": "crop and flip instead of two paddings, crop, flip and rotation",
    "remainder": "an epoch's incomplete last batch left out instead of kept",
    "bias": "the linear layer's bias starts at 0 instead of as torch draws it",
    "precision": "in what the device does best instead of float32",
}


@dataclass(frozen=True)
class Step:
    """A change of protocol and the two places whose difference is its effect."""

    name: str
    after: Place
    before: Place
    what: str = ""

    def effect(self, group: Group) -> Estimate | None:
        """Accuracy after minus accuracy before, paired; None where a run is missing."""
        return evidence.difference(group, self.after, self.before)


def of_evaluation(key: str, column: str) -> list[Step]:
    """The network of the published protocol, evaluated by other rules than its own: no training."""
    own = (key, "published", f"published:{column}")
    return [Step(rule, (key, "published", f"{rule}:{column}"), own, what) for rule, what in RULES.items()]


def of_training(key: str, column: str, rule: str, budget: str = "lite") -> list[Step]:
    """One training switch moved at a time, the rest as published, and all moved; each network evaluated by ``rule``."""
    name = f"{rule}:{column}"
    own = (key, "published", name)
    steps = [
        Step(switch, (key, f"published-{switch}", name), own, TRAINING[switch])
        for switch in catalogue.rows()[key].switches(budget)
    ]
    return [*steps, Step("corrected", (key, "corrected", name), own, "all of them")]


def path(key: str, column: str, budget: str = "lite") -> list[Step]:
    """From published to corrected one after the other: first how the network is evaluated, then how it is trained."""
    paper = catalogue.rows()[key]
    rules = ["published", "published, running statistics", "corrected"]
    places = [(key, "published", f"{rule}:{column}") for rule in rules]
    places += [(key, protocol, f"corrected:{column}") for protocol in paper.cumulative(budget)]
    of_the_attack = ("space", "mode", "branch")
    names = ["statistics of evaluation", "space of evaluation"]
    names += [f"{switch} of training" if switch in of_the_attack else switch for switch in paper.switches(budget)]
    return [Step(name, after, before) for name, (before, after) in zip(names, pairwise(places), strict=True)]


@dataclass(frozen=True)
class Walk:
    """A path with its numbers, over the same images and trainings: ``start`` and the ``changes`` add up to ``end``."""

    names: list[str]
    start: Estimate
    changes: list[Estimate]
    end: Estimate


def walk(group: Group, key: str, column: str) -> Walk | None:
    """The path of one row on one column, measured; None while a run on it is missing."""
    steps = path(key, column, group[0].budget)
    masks = evidence.paired(group, [steps[0].before, *(step.after for step in steps)])
    if masks is None:
        return None
    return Walk(
        [step.name for step in steps],
        statistics.accuracy(masks[0]),
        [statistics.difference(after, before) for before, after in pairwise(masks)],
        statistics.accuracy(masks[-1]),
    )


def effects(group: Group, key: str) -> str:
    """The dissection of one row as HTML: evaluation, then training by either rule; effects in percentage points."""
    heads = ["Switch", *HEADINGS.values()]
    body = [
        group_title("The published protocol as it is: accuracy in percent", len(heads)),
        row("published", [accuracy(evidence.accuracy(group, key, "published", column)) for column in HEADINGS]),
        group_title("Evaluate the same network otherwise: change in points", len(heads)),
    ]
    by_column = [_effects(group, of_evaluation(key, column)) for column in catalogue.COLUMNS]
    for (rule, what), *found in zip(RULES.items(), *by_column, strict=True):
        body.append(row(_named(rule.removeprefix("published, "), what, found), [*map(points, found), ""]))
    for rule in catalogue.PROTOCOLS:
        text = f"Train another network, and evaluate both by the {rule} rule: change in points"
        body.append(group_title(text, len(heads)))
        budget = group[0].budget
        steps = of_training(key, "clean", rule, budget)
        by_column = [_effects(group, of_training(key, column, rule, budget)) for column in catalogue.COLUMNS]
        by_column.append(_effects(group, of_training(key, evidence.STRONG, "corrected", budget)))
        for step, *found in zip(steps, *by_column, strict=True):
            what = step.what + _trained_in(group, step)
            body.append(row(_named(step.name, what, found), [points(effect) for effect in found]))
    caption = (
        f"{catalogue.rows()[key].label}: what each switch between the protocols does alone. Intervals are 95 %, paired "
        "by image; bold where they exclude 0; n: the images compared (whole batches, where their statistics "
        "count). With one training a protocol they do not include how much another "
        f"training would differ. {HEADINGS[evidence.STRONG]} is the same attack everywhere."
    )
    return table(heads, body, caption)


def missing(group: Group, key: str) -> str:
    """The networks of a row's dissection that were not trained, as a sentence of Markdown; empty if none is missing."""
    protocols = catalogue.rows()[key].dissection(group[0].budget)
    absent = [protocol for protocol in protocols if not evidence.runs_of(group, key, protocol)]
    return (
        f"Not run yet for {catalogue.rows()[key].label}: {', '.join(f'`{name}`' for name in absent)}." if absent else ""
    )


def _effects(group: Group, steps: Sequence[Step]) -> list[Estimate | None]:
    return [step.effect(group) for step in steps]


def _trained_in(group: Group, step: Step) -> str:
    """Which precision that was, where the switch is the precision: a device's best may be float32 as well."""
    runs = evidence.runs_of(group, *step.after[:2]) if step.name == "precision" else []
    return f", here {', '.join(sorted({record.provenance['precision'] for record in runs}))}" if runs else ""


def _named(name: str, what: str, effects: Sequence[Estimate | None]) -> str:
    """The heading of a line: the switch, what it does, and on how many images its effects were measured."""
    images = sorted({effect.n for effect in effects if effect})
    on = f"; n = {counts(images)}" if images else ""
    return f'{name}<span class="interval wrap">{what}{on}</span>'
