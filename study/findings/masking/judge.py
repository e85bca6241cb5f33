"""Masking: is a row's robustness worth anything, or has the attack failed? Verdicts by :data:`checks.CHECKS`. No torch.

An accuracy under attack is an upper bound, and a failed attack raises it. ``book/trust.md`` has the rules in words.
All comparisons that are asked of one network share an error of 5 % (Bonferroni). Checks that need the network itself
count where a probe was made, and are not asked for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from study.evidence import comparisons, estimates
from study.evidence.selection import Group, runs_of
from study.findings.masking.checks import (
    CHECKS,
    FAILS,
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
from study.presentation.words import network

CLEAR, UNDECIDED, MASKED, COLLAPSED = "no sign of masking", "undecided", "masked", "collapsed"
VERDICTS = (CLEAR, UNDECIDED, MASKED, COLLAPSED)  # from best to worst
NEAR_GUESSING = 3  # times as accurate as guessing, without an attack: less, and a network has collapsed
OVERSHOT = 0.02  # above guessing, under an attack of 0.5 in pixels, which overshoots on most networks: still no sign


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
    def title(self) -> str:
        return network(self.key, self.protocol)

    @property
    def failing(self) -> list[Result]:
        return [result for result in self.results if result.outcome == FAILS]

    def result(self, id: str) -> Result:
        return next(result for result in self.results if result.check.id == id)


def verdicts(group: Group, probes: Mapping[str, Probe] | None = None) -> list[Verdict]:
    """The verdict of every row and protocol that was run, in the order of the paper. ``probes``: by record's place."""
    return [
        verdict(group, key, protocol, probes or {})
        for key in catalogue.distinct()
        for protocol in catalogue.PROTOCOLS
        if runs_of(group, key, protocol)
    ]


def verdict(group: Group, key: str, protocol: str, probes: Mapping[str, Probe]) -> Verdict:
    """The verdict of one row under one protocol, which must have been run."""
    row, rule, runs = catalogue.rows()[key], catalogue.rule(protocol), runs_of(group, key, protocol)
    pairs = {check.id: check.pairs(row, rule) if check.asked(row) else [] for check in CHECKS}
    beside = [probes[record.where] for record in runs if record.where in probes]
    of_probe = [check for check in CHECKS if check.of_probe and check.asked(row)]
    # what could be asked of a probe is counted whether or not it was measured: no verdict hangs on what else was run
    in_probes = len(runs) * sum(check.of_each for check in of_probe)
    confidence = 1 - 0.05 / (sum(map(len, pairs.values())) + in_probes)
    results = []
    for check in CHECKS:
        if check in of_probe:
            found = [finding for probe in beside for finding in check.of_probe(probe, confidence)]
            findings = found or [Finding(NOT_MEASURED, check.id)]
        else:
            findings = [_compared(runs, *names, confidence, check.alone) for names in pairs[check.id]]
        results.append(Result(check, _outcome([finding.outcome for finding in findings]), tuple(findings)))
    found = COLLAPSED if collapsed(group, key, protocol) else _overall(results)
    return Verdict(key, protocol, found, tuple(results))


def silent(group: Group, key: str, protocol: str, probes: Mapping[str, Probe]) -> str | None:
    """Why the accuracies of a network, which was run, are no evidence: "masked", "collapsed", or None.

    The one place that decides it. The checks are asked of the paper's rows; other experiments can collapse.
    """
    if key not in catalogue.rows():
        return COLLAPSED if collapsed(group, key, protocol) else None
    found = verdict(group, key, protocol, probes).verdict
    return found if found in (MASKED, COLLAPSED) else None


def collapsed(group: Group, key: str, protocol: str) -> bool:
    """Whether the network of a row, which was run, is near guessing without any attack, by its protocol's rule."""
    classes = len(runs_of(group, key, protocol)[0].data["classes"])
    return comparisons.accuracy(group, key, protocol, "clean").value * classes < NEAR_GUESSING


def _overall(results: Iterable[Result]) -> str:
    """A check on convergence that fails is no masking: the attack was stopped while it was still finding images."""
    results = list(results)
    failing = [result.check for result in results if result.outcome == FAILS]
    if any(not check.convergence for check in failing):
        return MASKED
    unknown = [result for result in results if result.outcome == NOT_MEASURED and not result.check.of_probe]
    return UNDECIDED if failing or unknown else CLEAR


def _outcome(outcomes: list[str]) -> str:
    """Of a check, from those of its comparisons: the worst of them; nothing left only if that is true of all."""
    for outcome in (FAILS, NOT_MEASURED, PASSES, NOTHING_LEFT):
        if outcome in outcomes:
            return outcome
    return NOT_ASKED


def _compared(runs: Group, before: str, after: str, confidence: float, alone: bool) -> Finding:
    read = comparisons.as_measured if alone else comparisons.survivors_by_seed
    try:
        measured = [(runs, name, read(runs, name)) for name in (before, after) if name]
    except KeyError:
        return Finding(NOT_MEASURED, after, before)
    attack = runs[0].measurement(after).attack
    overshoots = attack["eps"] >= 0.5 and attack["space"] == "pixels"
    guess = 1 / len(runs[0].data["classes"]) + (OVERSHOT if overshoots else 0.0)
    masks = comparisons.same_images(measured)
    if not before:
        return _guessed(after, *masks, confidence, guess)
    return pair(before, after, *masks, confidence, guess if attack["stop"] == "last-step" else 0.0)


def _guessed(after: str, mask: np.ndarray, confidence: float, guess: float) -> Finding:
    """``mask`` (S, n) under an attack that leaves a guess, or nearly one, if it works."""
    left = estimates.accuracy(mask, confidence)
    return Finding(FAILS if left.low > guess else PASSES, after, estimate=left)
