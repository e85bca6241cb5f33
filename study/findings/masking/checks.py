"""What gives a failed attack away, as data: :data:`CHECKS`, and how one comparison of a check comes out. No torch.

The signs are known (Athalye et al. 2018, section 3.1; Carlini et al. 2019, section 3). Most checks set two attacks on
one network against each other, of which the second can do whatever the first can: it must not leave more images right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from study.evidence import estimates
from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate
from study.findings.masking.probes import FROM, Probe
from study.plan import catalogue
from study.plan.attacks import SWEEP_EPS
from study.plan.catalogue import Row

PASSES, FAILS, NOTHING_LEFT, NOT_MEASURED, NOT_ASKED = "passes", "fails", "nothing left", "not measured", "not asked"
MARGIN = 0.01  # of accuracy, or of images: less is not worth an alarm
LAST_STEP_RISE = 0.01  # of the whole rise of the loss: more, and the attack was stopped on its way up
SIZES = tuple(f"{size}/255" for size in SWEEP_EPS)  # of the attacks that are swept
PAIRED = ("fgsm-0.1", "pgd-0.1", "fgsm-0.5", "pgd-0.5", STRONG)  # measured by both gradients, and through both branches


@dataclass(frozen=True)
class Finding:
    """One comparison of a check on one network: accuracies before and after, or a share, and what came of it."""

    outcome: str
    after: str  # measurement of the attack that must leave no more images right, or what is shared out
    before: str = ""  # measurement of the attack that it is set against; none for a share
    estimate: Estimate | None = None  # after minus before, or the share
    accuracies: tuple[float, float] | None = None  # (before, after), in [0, 1]


@dataclass(frozen=True)
class Check:
    """One sign of masking, or of an attack that was stopped too early, and the rule by which a network shows it."""

    id: str
    title: str
    rule: str  # a sentence; what holds for all checks stands in book/trust.md
    pairs: Callable[[Row, str], list[tuple[str, str]]] = lambda row, rule: []  # (before, or "" for guessing, after)
    of_probe: Callable[[Probe, float], list[Finding]] | None = None  # empty where the probe lacks it
    of_each: int = 1  # comparisons that a whole probe has for it
    alone: bool = False  # SAT: each gradient by itself, not what survives both
    convergence: bool = False  # failing it says that the attack was too weak, not that the gradient is masked
    asked: Callable[[Row], bool] = lambda row: True


def pair(before: str, after: str, left: np.ndarray, more: np.ndarray, confidence: float, guess: float) -> Finding:
    """``left``, ``more``: masks (S, n) under the attack before, and under the one that must leave no more right.

    It fails if it leaves more, for certain and by :data:`MARGIN` or more. ``guess``: up to which accuracy it does not,
    as an attack that is read off at its last step may overshoot, and then the network guesses.
    """
    accuracies = (float(left.mean()), float(more.mean()))
    gain = estimates.difference(more, left, confidence)
    better_than_guessing = estimates.accuracy(more, confidence).low > guess
    if max(accuracies) < MARGIN:
        outcome = NOTHING_LEFT
    else:
        outcome = FAILS if gain.low > 0 and gain.value >= MARGIN and better_than_guessing else PASSES
    return Finding(outcome, after, before, gain, accuracies)


def share(what: str, mask: np.ndarray, confidence: float) -> Finding:
    """``mask`` (n,): the images of which there must be next to none. It fails where more than that are for certain."""
    if not len(mask):  # a network without a correct image has nothing to attack
        return Finding(NOTHING_LEFT, what)
    found = estimates.accuracy(mask[None], confidence)
    return Finding(FAILS if found.low > MARGIN else PASSES, what, estimate=found)


def _sizes(row: Row, rule: str) -> list[tuple[str, str]]:
    pairs = _series("corrected", "clean", *(f"fgsm-{size}" for size in SIZES), "fgsm-0.1", "fgsm-0.5")
    pairs += _series("corrected", "clean", *(f"pgd-10-{size}" for size in SIZES))
    pairs += _series("corrected", "clean", "pgd-0.1", "pgd-0.5")
    if rule == "published":  # its clamp changes images by itself: that is its eps of 0
        for method in ("fgsm", "pgd"):
            pairs += _series(rule, "clamp-alone", f"{method}-0.1", f"{method}-0.5")
    return pairs


def _steps_against_one(row: Row, rule: str) -> list[tuple[str, str]]:
    # PGD 0.1 is left out: its two steps of 2/255 do not reach as far as FGSM 0.1
    pairs = [(f"corrected:fgsm-{size}", f"corrected:pgd-10-{size}") for size in SIZES]
    return pairs + [(f"{name}:fgsm-0.5", f"{name}:pgd-0.5") for name in dict.fromkeys(["corrected", rule])]


def _noise(row: Row, rule: str) -> list[tuple[str, str]]:
    attacks = {"8/255": ("fgsm-8/255", "pgd-10-8/255"), "0.1": ("fgsm-0.1",), "0.5": ("fgsm-0.5", "pgd-0.5")}
    return [(f"corrected:noise-{size}", f"corrected:{name}") for size, names in attacks.items() for name in names]


def _grey(row: Row, rule: str) -> list[tuple[str, str]]:
    # all images can be made the same flat grey, and no network is right about more of them than by guessing: if at all,
    # an attack that overshoots leaves a little more
    return [("", "corrected:fgsm-0.5"), ("", "corrected:pgd-0.5")]  # by the published rule, 0.5 is another length


def _gradients(row: Row, rule: str) -> list[tuple[str, str]]:
    return [(f"corrected:{column}:surrogate", f"corrected:{column}") for column in PAIRED]


def _branches(row: Row, rule: str) -> list[tuple[str, str]]:
    to_main = [(f"corrected:{column}:aux-to-main", f"corrected:{column}") for column in PAIRED]
    return to_main + [(f"corrected:{column}:main-to-aux", f"corrected:{column}:aux") for column in PAIRED]


def _flat(row: Row, rule: str) -> list[tuple[str, str]]:
    # The other way round, 20 steps leave no more than 50 do. That more steps leave no more is true of any network: by
    # the corrected rule PGD stops at an image's first success.
    return [("corrected:steps-50", "corrected:steps-20")]


def _series(rule: str, *columns: str) -> list[tuple[str, str]]:
    return list(pairwise(f"{rule}:{column}" for column in columns))


def _unbounded(probe: Probe, confidence: float) -> list[Finding]:
    return [share("probe:unbounded", probe.mask("unbounded"), confidence)]


def _without_gradient(kind: str, probe: Probe, confidence: float) -> list[Finding]:
    return [share(f"probe:{kind}", probe.without(getattr(probe, kind)), confidence)]


def _white_box(chosen: Callable[[str], bool], probe: Probe, confidence: float) -> list[Finding]:
    """PGD-20 against every measurement of the probe whose name is ``chosen``: images right without attack and under it.

    Without the former, an image that is wrong by itself and righted by an attack would count against the white box.
    """
    clean, white_box = probe.mask("clean"), probe.mask(STRONG)[None]
    names = [measurement.name for measurement in probe.measurements]
    return [
        pair(name, f"probe:{STRONG}", (probe.mask(short) & clean)[None], white_box, confidence, guess=0.0)
        for name in names
        if chosen(short := name.removeprefix("probe:"))
    ]


def _last_step(probe: Probe, confidence: float) -> list[Finding]:
    first, before, last = (probe.loss[k] for k in ("0", "19", "20"))
    gain = Estimate(last - before, *probe.last_step, probe.images, 1)
    rising = gain.low > 0 and gain.value >= LAST_STEP_RISE * (last - first)
    return [Finding(FAILS if rising else PASSES, "probe:last-step", estimate=gain)]


CHECKS = (
    Check(
        "size",
        "Larger is stronger",
        "Accuracy does not rise with eps: FGSM and PGD-10 from no attack to 16/255, FGSM 0.1 and PGD 0.1 to 0.5; under "
        "the published protocol also by its own rule, from the clamp alone to 0.5.",
        _sizes,
    ),
    Check(
        "steps",
        "Many steps beat one",
        "PGD-10 leaves no more right than FGSM at each eps up to 16/255, and PGD 0.5 no more than FGSM 0.5.",
        _steps_against_one,
    ),
    Check(
        "noise",
        "An attack beats noise",
        "FGSM and PGD leave no more right than a random perturbation of their size: 8/255, 0.1 and 0.5.",
        _noise,
    ),
    Check(
        "grey",
        "Grey is a guess",
        "FGSM 0.5 and PGD 0.5 leave for certain no more than two points above a guess: a flat grey image is within "
        "their reach.",
        _grey,
    ),
    Check(
        "gradient",
        "The true gradient leads",
        "SAT: attacks that follow the true gradient leave no more right than those that follow the surrogate's.",
        _gradients,
        alone=True,
        asked=lambda row: row.sat,
    ),
    Check(
        "branches",
        "White box beats the other branch",
        "AdvProp: attacks through a branch leave it no more right than attacks through the other branch do.",
        _branches,
        asked=lambda row: row.advprop,
    ),
    Check(
        "flat",
        "Flat at its end",
        "PGD at 8/255 leaves no more right after 20 steps than after 50. Else it was stopped too early.",
        _flat,
        convergence=True,
    ),
    Check(
        "unbounded",
        "No bound, no survivors",
        "PGD that may change every pixel to anything, from the image and from two starts near it, leaves next to none.",
        of_probe=_unbounded,
    ),
    Check(
        "zero",
        "A gradient to follow",
        "The gradient of the loss is exactly 0 for next to none of the images that are classified correctly.",
        of_probe=partial(_without_gradient, "zero_gradient"),
    ),
    Check(
        "vanishing",
        "A gradient in float32",
        "The largest entry of that gradient is below the precision of float32 for next to none of them.",
        of_probe=partial(_without_gradient, "vanishing_gradient"),
    ),
    Check(
        "square",
        "Gradients beat guessing",
        "PGD-20 at 8/255 leaves no more right than Square, an attack of that size that never sees a gradient.",
        of_probe=partial(_white_box, "square-8/255".__eq__),
    ),
    Check(
        "target",
        "The plain target leads",
        "ALS: PGD-20 at 8/255 that raises the cross-entropy leaves no more right than PGD-20 that raises the smoothed "
        "loss.",
        of_probe=partial(_white_box, "smoothed-8/255".__eq__),
        asked=lambda row: row.als,
    ),
    Check(
        "rows",
        "White box beats other networks",
        "PGD-20 at 8/255 leaves no more right than such images that were made on any other network.",
        of_probe=partial(_white_box, lambda name: name.startswith(FROM)),
        of_each=len(catalogue.rows()) - 1,
    ),
    Check(
        "rising",
        "The loss has risen",
        "The last of PGD's 20 steps adds less than a hundredth of the whole rise of the loss, or nothing for certain.",
        of_probe=_last_step,
        convergence=True,
    ),
)
