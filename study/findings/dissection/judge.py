"""From the published protocol to the corrected one, a switch at a time: what each difference does. No torch.

Two kinds of switch. Those of *evaluation* look at one trained network in two ways. Those of *training* need
another network, whose effect is looked at by one rule of evaluation. Every effect is a paired difference in accuracy.
"""

from dataclasses import dataclass
from itertools import pairwise

from study.evidence import comparisons, estimates, selection
from study.evidence.comparisons import Place
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.plan import catalogue

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
        return comparisons.difference(group, self.after, self.before)


@dataclass(frozen=True)
class Walk:
    """A path with its numbers, over the same images and trainings: ``start`` and the ``changes`` add up to ``end``."""

    names: list[str]
    start: Estimate
    changes: list[Estimate]
    end: Estimate


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


def walk(group: Group, key: str, column: str) -> Walk | None:
    """The path of one row on one column, measured; None while a run on it is missing."""
    steps = path(key, column, group[0].budget)
    places = [steps[0].before, *(step.after for step in steps)]
    masks, spread = comparisons.paired(group, places), comparisons.spread(group, f"corrected:{column}")
    if masks is None:
        return None
    between = [spread if before[:2] != after[:2] else None for before, after in pairwise(places)]  # of two trainings
    return Walk(
        [step.name for step in steps],
        estimates.accuracy(masks[0]),
        [
            estimates.difference(after, before, spread=known)
            for (before, after), known in zip(pairwise(masks), between, strict=True)
        ],
        estimates.accuracy(masks[-1]),
    )


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


def trained_in(group: Group, step: Step) -> str:
    """Which precision that was, where the switch is the precision: a device's best may be float32 as well."""
    runs = selection.runs_of(group, *step.after[:2]) if step.name == "precision" else []
    return f", here {', '.join(sorted({record.provenance['precision'] for record in runs}))}" if runs else ""
