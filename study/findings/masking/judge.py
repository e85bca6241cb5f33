"""Masking: is a row's robustness worth anything, or has the attack failed? Checks as data, and verdicts. No torch.

An accuracy under attack is an upper bound, and a failed attack raises it. What gives a failed attack away is known
(Athalye et al. 2018, section 3.1; Carlini et al. 2019, section 3), and :data:`CHECKS` has it as data. Most of them are
pairs of attacks on one network, of which the second can do whatever the first can: it must not leave more images right.
The rules, written with the records' accuracies in sight and before the first verdict, but for those that are named:

- A *pair fails* where the second attack leaves more images right, by :data:`MARGIN` or more, and the interval of that
  difference excludes 0. It passes otherwise. Differences are paired by image and by seed. All comparisons that are
  asked of one network share an error of 5 %, so each of its k has an interval of 1 - 0.05 / k (Bonferroni). What could
  be asked of a probe is counted whether or not it was measured, so that a verdict does not hang on what else was run.
- *Chance* is no failure. An attack that is read off at its last step may overshoot, and then the network guesses: a
  pair with such a second attack fails only if its accuracy lies above 1 / classes, by the interval. Attacks that count
  an image at its first success cannot overshoot, and have no such excuse.
- *Nothing left*: both accuracies are below :data:`MARGIN`. There is nothing to mask, and nothing to pass.
- *Grey*: where an attack may change every pixel by 0.5, all images can be made the same flat grey, and no network is
  right about more of them than by guessing. Such an attack fails if its accuracy lies above 1 / classes, for sure and
  by :data:`MARGIN` or more. (This rule is younger than the first verdicts: a network of the tests that hides its
  gradient altogether is as accurate under any attack as under none, and passed nearly all of the others.)
- *Not measured*: a record lacks one of the two, or no probe lies beside it (:class:`Probe`).
- *Younger* than the first verdicts are Grey, the checks by the smoothed target and by images from other rows, and what
  the checks by Square and these two have in common: an image that is wrong without an attack and right under one does
  not count against the white box.
- A *share fails* (an accuracy that must be near 0, images without a gradient) where its interval lies above
  :data:`MARGIN`.

A network is *masked* if any check on masking fails. Else it is *undecided* if a check on the record was not measured,
or a check on convergence fails: an attack that is still finding images was stopped too early, which is no masking, but
the number is not the last word. Else there is *no sign of masking*. That is no proof of robustness: another attack may
still find more. Checks that need the network itself count where a probe was made, and are not asked for.

By the corrected rule PGD with many steps stops at an image's first success, so its accuracy cannot rise with the number
of steps, whatever the network: that check would be empty, and whether the curve is flat at its end is asked instead.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from study.evidence import comparisons, estimates
from study.evidence.selection import Group, runs_of
from study.findings.masking.checks import (
    CHECKS,
    FAILS,
    MARGIN,
    NOT_ASKED,
    NOT_MEASURED,
    NOTHING_LEFT,
    PASSES,
    Check,
    Finding,
    pair,
)
from study.findings.masking.probes import Probe
from study.plan import catalogue

CLEAR, UNDECIDED, MASKED = "no sign of masking", "undecided", "masked"
VERDICTS = (CLEAR, UNDECIDED, MASKED)  # from best to worst


@dataclass(frozen=True)
class Result:
    """What came of one check on one network."""

    check: Check
    outcome: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A row under a training protocol, what every check made of it, and what follows."""

    key: str
    protocol: str
    verdict: str
    results: tuple[Result, ...]

    @property
    def failing(self) -> list[Result]:
        return [result for result in self.results if result.outcome == FAILS]

    def result(self, id: str) -> Result:
        return next(result for result in self.results if result.check.id == id)


def judge(group: Group, probes: Mapping[str, Probe] | None = None) -> list[Verdict]:
    """The verdict of every row and protocol that was run, in the order of the paper. ``probes``: by record's place."""
    return [
        verdict(group, key, protocol, probes or {})
        for key in catalogue.rows()
        for protocol in catalogue.PROTOCOLS
        if runs_of(group, key, protocol)
    ]


def verdict(group: Group, key: str, protocol: str, probes: Mapping[str, Probe]) -> Verdict:
    """The verdict of one row under one protocol, which must have been run."""
    row, rule, runs = catalogue.rows()[key], catalogue.rule(protocol), runs_of(group, key, protocol)
    pairs = {check.id: check.pairs(row, rule) if check.asked(row) else [] for check in CHECKS}
    beside = [probes[record.where] for record in runs if record.where in probes]
    of_probe = [check for check in CHECKS if check.of_probe and check.asked(row)]
    in_probes = max(1, len(beside)) * sum(check.of_each for check in of_probe)
    confidence = 1 - 0.05 / (sum(map(len, pairs.values())) + in_probes)
    results = []
    for check in CHECKS:
        if check in of_probe:
            found = [finding for probe in beside for finding in check.of_probe(probe, confidence)]
            findings = found or [Finding(NOT_MEASURED, check.id)]
        else:
            findings = [_compared(runs, *pair, confidence, check.alone) for pair in pairs[check.id]]
        results.append(Result(check, _outcome([finding.outcome for finding in findings]), tuple(findings)))
    return Verdict(key, protocol, _overall(results), tuple(results))


def _outcome(outcomes: list[str]) -> str:
    """Of a check, from those of its comparisons: the worst of them; nothing left only if that is true of all."""
    for outcome in (FAILS, NOT_MEASURED, PASSES, NOTHING_LEFT):
        if outcome in outcomes:
            return outcome
    return NOT_ASKED


def _overall(results: Iterable[Result]) -> str:
    results = list(results)
    failing = [result.check for result in results if result.outcome == FAILS]
    if any(not check.convergence for check in failing):
        return MASKED
    unknown = [result for result in results if result.outcome == NOT_MEASURED and not result.check.of_probe]
    return UNDECIDED if failing or unknown else CLEAR


def _compared(runs: Group, before: str, after: str, confidence: float, alone: bool) -> Finding:
    read = comparisons.as_measured if alone else comparisons.worst_masks
    try:
        measured = [(runs, name, read(runs, name)) for name in (before, after) if name]
    except KeyError:
        return Finding(NOT_MEASURED, after, before)
    guess = 1 / len(runs[0].data["classes"])
    masks = comparisons.same_images(measured)
    if not before:
        return _guessed(after, *masks, confidence, guess)
    overshoots = runs[0].measurement(after).attack["stop"] == "last-step"
    return pair(before, after, *masks, confidence, guess if overshoots else 0.0)


def _guessed(after: str, mask: np.ndarray, confidence: float, guess: float) -> Finding:
    """``mask`` (S, n) under an attack that leaves a guess if it works."""
    share = estimates.accuracy(mask, confidence)
    return Finding(FAILS if share.low > guess and share.value >= guess + MARGIN else PASSES, after, estimate=share)
