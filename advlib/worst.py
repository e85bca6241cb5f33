"""The worst case an image: what is left of a network after every attack of one size that was ever run on it. No torch.

An attack that fails on an image says nothing of that image; one that succeeds settles it. So an image counts as right
only if it survived all attacks in the ball of 8/255 that were tried on it: those of the record, of the probe and of
AutoAttack (Croce and Hein 2020 report the ensemble the same way). More attacks can only lower this number, and it stays
an upper bound on what an attacker leaves.

Record and AutoAttack are of one network, but for its weights: the published ones, which AutoAttack and the probe see,
are rounded to 16 bits. :data:`advlib.ensemble.SAME_CLEAN` says how many clean predictions may differ by that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np

from advlib import catalogue, ensemble, evidence, masking, statistics
from advlib.ensemble import ATTACKS, EPS, AutoAttack
from advlib.evidence import HEADINGS, STRONG, Group
from advlib.markup import NOT_RUN, accuracy, counts, link, row, table
from advlib.masking import Probe
from advlib.records import Measurement, Record
from advlib.statistics import Estimate

NAMES = {"apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab-t": "FAB-T", "square": "Square"}
FLAGS = {  # what AutoAttack's authors check: its name here, and the rule
    "randomised": (
        "randomised",
        f"Five passes of the same images must give the same logits, within {ensemble.RANDOMISED:g} of their length.",
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
        f"Square must not find more than {100 * ensemble.SQUARE:g} % of the images after those that follow a gradient.",
    ),
}


@dataclass(frozen=True)
class Case:
    """One network, on the images that AutoAttack saw."""

    record: Record
    found: AutoAttack
    masks: Mapping[str, np.ndarray]  # measurement -> bool (up to n,): every attack of the size but AutoAttack's

    @property
    def title(self) -> str:
        seed = f", seed {self.record.seed}" if self.record.seed else ""
        return f"{catalogue.rows()[self.record.key].name}, {self.record.protocol}{seed}"

    @property
    def before(self) -> np.ndarray:
        """bool (n,): right under PGD-20, as the book has it: a network with surrogate gradients must survive both."""
        return evidence.worst_mask(self.record, f"corrected:{STRONG}")[: self.found.images]

    @cached_property
    def worst(self) -> np.ndarray:
        """bool (n,): right under every attack that was run on the image."""
        return worst_case([self.found.left, *self.masks.values()])

    @property
    def strong(self) -> Estimate:
        """Accuracy under PGD-20."""
        return statistics.accuracy(self.before[None])

    @property
    def after_all(self) -> Estimate:
        """Accuracy after all attacks of AutoAttack that are finished."""
        return statistics.accuracy(self.found.left[None])

    @property
    def accuracy(self) -> Estimate:
        """Of the worst case, with Wilson's interval."""
        return statistics.accuracy(self.worst[None])

    @property
    def below(self) -> Estimate:
        """Share of the images that PGD-20 leaves right and another attack does not: PGD-20 minus the worst case."""
        return statistics.accuracy((self.before & ~self.worst)[None])

    def left(self, attack: str) -> Estimate | None:
        """After ``attack`` of AutoAttack and all before it; None if it is not finished."""
        done = attack in ("clean", *self.found.attacks)
        return statistics.accuracy(self.found.after(attack)[None]) if done else None


def worst_case(masks: Sequence[np.ndarray]) -> np.ndarray:
    """bool (n,): right in every mask that reaches the image. The first of them has length n, others may be shorter.

    Raises ValueError if another is longer: then n is not the number of images that count.
    """
    left = np.array(masks[0], bool)
    for mask in masks[1:]:
        if len(mask) > len(left):
            raise ValueError(f"a mask of {len(mask)} images, and the worst case is over {len(left)}: cut it first")
        left[: len(mask)] &= mask
    return left


def in_ball(measurement: Measurement) -> bool:
    """Whether it is an attack in the ball of 8/255, in pixels, on the network as it is used: main branch, eval mode."""
    attack = {"norm": "linf", "space": "pixels", "statistics": "running", "branch": "main"} | measurement.attack
    usual = (attack["norm"], attack["space"], attack["statistics"], attack["branch"])
    return abs(attack["eps"] - EPS) < 1e-9 and usual == ("linf", "pixels", "running", "main")


def case(record: Record, found: AutoAttack, probe: Probe | None = None) -> Case:
    """The worst case of one network from its record, what AutoAttack left of it, and its probe, if there is one."""
    measured = [*record.measurements, *(probe.measurements if probe else ())]
    return Case(record, found, {m.name: m.mask[: found.images] for m in measured if in_ball(m)})


def cases(root: Path, group: Group) -> list[Case]:
    """Every record of ``group`` that AutoAttack was run on, in the paper's order.

    Raises ValueError, with the remedy, if a file beside one of them is damaged or stale.
    """
    found, probes = ensemble.beside(root, group), masking.probes(root, group)
    order = {key: place for place, key in enumerate(catalogue.rows())}
    attacked = [
        case(record, found[record.where], probes.get(record.where)) for record in group if record.where in found
    ]
    return sorted(attacked, key=lambda one: (order[one.record.key], one.record.protocol, one.record.seed))


def summary(cases: Sequence[Case]) -> str:
    """In sentences: how many networks and images, how far below PGD-20, who found it, and the flags."""
    if not cases:
        command = "python -m advlib autoattack advprop --budget lite"
        return f"AutoAttack has not been run on any of these networks. For one whose weights are here: `{command}`."
    lowest = max(cases, key=lambda one: one.below.value)
    robust = max(cases, key=lambda one: one.accuracy.value)
    tried = sorted({len(one.masks) + len(one.found.attacks) for one in cases})
    networks = f"{len(cases)} {_plural(len(cases), 'network')}"
    below = 100 * lowest.below.value
    sizes = counts(sorted({one.found.images for one in cases}))
    sentences = (
        f"AutoAttack was run on {networks} and the first {sizes} test images.",
        f"With those of the record and the probe, {counts(tried)} attacks of 8/255 were tried on a network.",
        f"The worst case an image is at most {below:.1f} percentage points below PGD-20 ({lowest.title}).",
        f"The most that is left of a network is {100 * robust.accuracy.value:.1f} % ({robust.title}).",
        _unfinished(cases),
        _latecomers(cases),
        _raised(cases),
    )
    return " ".join(filter(None, sentences))


def overview(cases: Sequence[Case], page: str = "book", root: Path | None = None) -> str:
    """What each attack leaves of each network, as HTML, and the worst case with its distance from PGD-20."""
    body = [
        row(
            f"{escape(one.title)} {link(one.record, page, root)}",
            [
                *(_percent(one.left("clean")), _percent(one.strong)),
                *(_percent(one.left(attack)) for attack in ATTACKS),
                *(accuracy(one.accuracy), accuracy(one.below)),
                ", ".join(FLAGS[flag][0] for flag, warning in one.found.flags.items() if warning) or "none",
                f"{sum(one.found.seconds.values()) / 60:.0f}",
            ],
        )
        for one in cases
    ]
    heads = ["Row, training", "clean", HEADINGS[STRONG], *(f"then {NAMES[attack]}" for attack in ATTACKS)]
    heads[3] = NAMES[ATTACKS[0]]
    return table(
        [*heads, "Worst case", "below PGD-20", "Flags", "Minutes"],
        body,
        "Images left right, in percent. Each attack of AutoAttack is tried on what those before it left. The worst "
        "case is over these and all other attacks of 8/255 that were run on the image; below PGD-20: the percentage "
        "points that it lies lower. Both with 95 % intervals (Wilson). Minutes: what AutoAttack took.",
    )


def flags(cases: Sequence[Case]) -> str:
    """AutoAttack's own checks as a list of definitions, as HTML: the rule, and the networks that raised it."""
    items = [
        f"<dt>{escape(title)}</dt><dd>{escape(rule)} <em>{escape(_outcome(flag, cases))}</em></dd>"
        for flag, (title, rule) in FLAGS.items()
    ]
    return f'<dl class="rules">{"".join(items)}</dl>'


def _outcome(flag: str, cases: Sequence[Case]) -> str:
    checked = [one for one in cases if flag in one.found.flags]
    if not checked:
        return "Not checked yet." if cases else ""
    raised = [f"{one.title}: {one.found.flags[flag]}" for one in checked if one.found.flags[flag]]
    missing = f", {len(cases) - len(checked)} not checked" if len(checked) < len(cases) else ""
    return f"Of {len(checked)} {_plural(len(checked), 'network')}{missing}: {'; '.join(raised) or 'raised for none'}."


def _unfinished(cases: Sequence[Case]) -> str:
    begun = [one for one in cases if one.found.attacks != ATTACKS]
    if not begun:
        return ""
    titles = "; ".join(one.title for one in begun)
    return f"Not all four attacks are finished on {len(begun)} of them ({titles}): there the number may still fall."


def _latecomers(cases: Sequence[Case]) -> str:
    """How many images fell to FAB-T or Square alone, where all four are finished."""
    finished = [one for one in cases if one.found.attacks == ATTACKS]
    if not finished:
        return ""
    late = sum(int((one.found.after("apgd-t") & ~one.found.left).sum()) for one in finished)
    over = f"over the {len(finished)} {_plural(len(finished), 'network')} that all four were run on"
    return f"After APGD-CE and APGD-T, FAB-T and Square find {late} further {_plural(late, 'image')}, {over}."


def _raised(cases: Sequence[Case]) -> str:
    raised = {FLAGS[flag][0] for one in cases for flag, warning in one.found.flags.items() if warning}
    if not raised:
        return "None of AutoAttack's own checks raised a flag."
    return f"AutoAttack's own checks raised a flag: {', '.join(sorted(raised))}."


def _percent(estimate: Estimate | None) -> str:
    return NOT_RUN if estimate is None else f"{100 * estimate.value:.1f}"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
