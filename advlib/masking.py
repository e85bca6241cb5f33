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

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from advlib import catalogue, evidence, statistics
from advlib.catalogue import Row
from advlib.evidence import STRONG, Group, runs_of
from advlib.records import Measurement, Record, unpack_mask
from advlib.statistics import Estimate

PASSES, FAILS, NOTHING_LEFT, NOT_MEASURED, NOT_ASKED = "passes", "fails", "nothing left", "not measured", "not asked"
CLEAR, UNDECIDED, MASKED = "no sign of masking", "undecided", "masked"
VERDICTS = (CLEAR, UNDECIDED, MASKED)  # from best to worst
MARGIN = 0.01  # of accuracy, or of images: less is not worth an alarm
LAST_STEP_RISE = 0.01  # of the whole rise of the loss: more, and the attack was stopped on its way up
SAME_NETWORK = 0.95  # of clean predictions: 16-bit weights flip one here and there, another training many
NAME = "probe.json"  # beside record.json
FROM = "from-"  # in a probe, before the place of the record whose network the images were made on
PROBE_SCHEMA = 1
SIZES = ("1/255", "2/255", "4/255", "8/255", "16/255")


@dataclass(frozen=True)
class Probe:
    """What was found out with the network at hand, and no record can say: see :mod:`advlib.probe`."""

    record: str  # the place of the record that it belongs to: budget/dataset/protocol/key/seed
    config: str  # digest of that record's config
    weights: str  # SHA-256 of the file of weights
    device: str
    images: int  # the first of the test set
    # "probe:clean", the white box, "probe:unbounded", "probe:square-8/255"; of ALS "probe:smoothed-8/255"; and where
    # advlib.transfer has been, "probe:from-" and the place of each other record
    measurements: tuple[Measurement, ...]
    zero_gradient: str  # packed mask: images whose gradient of the loss is 0 in every entry
    vanishing_gradient: str  # packed mask: no entry of the gradient reaches the precision of float32
    loss: Mapping[str, float]  # mean cross-entropy after so many steps of PGD at 8/255: "0", "19", "20"
    last_step: tuple[float, float]  # 95 % interval of what the last step added to it
    schema: int = PROBE_SCHEMA

    def mask(self, name: str) -> np.ndarray:
        """bool (n,): which images stayed right in that measurement. KeyError if the probe lacks it."""
        return {measurement.name: measurement.mask for measurement in self.measurements}[f"probe:{name}"]

    def without(self, packed: str) -> np.ndarray:
        """bool: which of the images that are classified correctly, and so have to be attacked, ``packed`` marks."""
        return unpack_mask(packed, self.images)[self.mask("clean")]


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
    rule: str  # a sentence; the general rules are those of this module
    pairs: Callable[[Row, str], list[tuple[str, str]]] = lambda row, rule: []  # (before, or "" for guessing, after)
    of_probe: Callable[[Probe, float], list[Finding]] | None = None  # empty where the probe lacks it
    of_each: int = 1  # comparisons that a whole probe has for it
    alone: bool = False  # SAT: each gradient by itself, not what survives both
    convergence: bool = False  # failing it says that the attack was too weak, not that the gradient is masked
    asked: Callable[[Row], bool] = lambda row: True


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


def _series(rule: str, *columns: str) -> list[tuple[str, str]]:
    return list(pairwise(f"{rule}:{column}" for column in columns))


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


def _flat(row: Row, rule: str) -> list[tuple[str, str]]:
    return [("corrected:steps-50", "corrected:steps-20")]  # the other way round: 20 steps leave no more than 50 do


def _noise(row: Row, rule: str) -> list[tuple[str, str]]:
    attacks = {"8/255": ("fgsm-8/255", "pgd-10-8/255"), "0.1": ("fgsm-0.1",), "0.5": ("fgsm-0.5", "pgd-0.5")}
    return [(f"corrected:noise-{size}", f"corrected:{name}") for size, names in attacks.items() for name in names]


_ATTACKS = ("fgsm-0.1", "pgd-0.1", "fgsm-0.5", "pgd-0.5", STRONG)


def _grey(row: Row, rule: str) -> list[tuple[str, str]]:
    return [("", "corrected:fgsm-0.5"), ("", "corrected:pgd-0.5")]  # by the published rule, 0.5 is another length


def _gradients(row: Row, rule: str) -> list[tuple[str, str]]:
    return [(f"corrected:{column}:surrogate", f"corrected:{column}") for column in _ATTACKS]


def _branches(row: Row, rule: str) -> list[tuple[str, str]]:
    to_main = [(f"corrected:{column}:aux-to-main", f"corrected:{column}") for column in _ATTACKS]
    return to_main + [(f"corrected:{column}:main-to-aux", f"corrected:{column}:aux") for column in _ATTACKS]


def _unbounded(probe: Probe, confidence: float) -> list[Finding]:
    return [_share("probe:unbounded", probe.mask("unbounded"), confidence)]


def _without_gradient(kind: str, probe: Probe, confidence: float) -> list[Finding]:
    return [_share(f"probe:{kind}", probe.without(getattr(probe, kind)), confidence)]


def _white_box(chosen: Callable[[str], bool], probe: Probe, confidence: float) -> list[Finding]:
    """PGD-20 against every measurement of the probe whose name is ``chosen``: images right without attack and under it.

    Without the former, an image that is wrong by itself and righted by an attack would count against the white box.
    """
    clean, white_box = probe.mask("clean"), probe.mask(STRONG)[None]
    names = [measurement.name for measurement in probe.measurements]
    return [
        _pair(name, f"probe:{STRONG}", (probe.mask(short) & clean)[None], white_box, confidence, guess=0.0)
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
        "FGSM 0.5 and PGD 0.5 leave no more right than guessing does: a flat grey image is within their reach.",
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
        "White box beats other rows",
        "PGD-20 at 8/255 leaves no more right than such images that were made on the network of any other row.",
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
    read = evidence.as_measured if alone else evidence.worst_masks
    try:
        measured = [(runs, name, read(runs, name)) for name in (before, after) if name]
    except KeyError:
        return Finding(NOT_MEASURED, after, before)
    guess = 1 / len(runs[0].data["classes"])
    masks = evidence.same_images(measured)
    if not before:
        return _guessed(after, *masks, confidence, guess)
    overshoots = runs[0].measurement(after).attack["stop"] == "last-step"
    return _pair(before, after, *masks, confidence, guess if overshoots else 0.0)


def _pair(before: str, after: str, left: np.ndarray, more: np.ndarray, confidence: float, guess: float) -> Finding:
    """``left``, ``more``: masks (S, n) under the attack before, and under the one that must leave no more right."""
    accuracies = (float(left.mean()), float(more.mean()))
    gain = statistics.difference(more, left, confidence)
    better_than_guessing = statistics.accuracy(more, confidence).low > guess
    if max(accuracies) < MARGIN:
        outcome = NOTHING_LEFT
    else:
        outcome = FAILS if gain.low > 0 and gain.value >= MARGIN and better_than_guessing else PASSES
    return Finding(outcome, after, before, gain, accuracies)


def _guessed(after: str, mask: np.ndarray, confidence: float, guess: float) -> Finding:
    """``mask`` (S, n) under an attack that leaves a guess if it works."""
    share = statistics.accuracy(mask, confidence)
    return Finding(FAILS if share.low > guess and share.value >= guess + MARGIN else PASSES, after, estimate=share)


def _share(what: str, mask: np.ndarray, confidence: float) -> Finding:
    if not len(mask):  # a network without a correct image has nothing to attack
        return Finding(NOTHING_LEFT, what)
    share = statistics.accuracy(mask[None], confidence)
    return Finding(FAILS if share.low > MARGIN else PASSES, what, estimate=share)


def transfers(
    probes: Mapping[str, Probe], protocol: str = "corrected", seed: int = 0
) -> dict[tuple[str, str], Estimate]:
    """(source, target), keys of rows -> share of images right without attack and under PGD-20 made on the source.

    Of the trainings of one protocol and seed. Where source and target are one, it is the white box. Empty while no
    images were transferred.
    """
    found = {}
    for place, probe in probes.items():
        *_, of, target, trained = place.split("/")
        names = [m.name.removeprefix("probe:") for m in probe.measurements if FROM in m.name]
        if (of, trained) != (protocol, f"seed{seed}") or not names:
            continue
        for name in (STRONG, *names):
            source = name.split("/")[-2] if name != STRONG else target
            found[source, target] = statistics.accuracy((probe.mask(name) & probe.mask("clean"))[None])
    return found


def with_transferred(probe: Probe, before: Path) -> Probe:
    """``probe`` with the images from other rows that the file ``before`` has, if that is of the same weights."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        raw = json.loads(Path(before).read_text())
        if (raw["weights"], raw["images"]) == (probe.weights, probe.images):
            kept = tuple(Measurement(**m) for m in raw["measurements"] if FROM in m["name"])
            return replace(probe, measurements=probe.measurements + kept)
    return probe


def probes(root: Path, group: Group) -> dict[str, Probe]:
    """The probes that lie beside the records of ``group``, by the record's place; errors as for :func:`read_probe`.

    Raises ValueError, too, where one has images that were made on weights that another was since made anew with.
    """
    beside = [(record, Path(root) / record.where / NAME) for record in group]
    found = {record.where: read_probe(path, record) for record, path in beside if path.is_file()}
    for place, probe in found.items():
        for measurement in probe.measurements:
            source = found.get(measurement.attack.get("source"))
            if source and source.weights != measurement.attack["source_weights"]:
                raise ValueError(
                    f"{place}/{NAME} has images made on other weights than those that {source.record} was probed with: "
                    f"make them again: python -m advlib transfer {evidence.flags(group)}"
                )
    return found


def read_probe(path: Path, record: Record) -> Probe:
    """The probe at ``path``. Raises ValueError, with the remedy, if it is damaged or does not belong to ``record``."""
    remedy = f"probe again: python -m advlib probe {record.key} --protocol {record.protocol} {evidence.flags([record])}"
    try:
        raw = json.loads(Path(path).read_text())
        if set(raw) != {field.name for field in fields(Probe)}:
            raise ValueError("its fields are not those of a probe")
        raw["measurements"] = tuple(Measurement(**measurement) for measurement in raw["measurements"])
        probe = Probe(**raw | {"last_step": tuple(raw["last_step"])})
        foreign = _foreign(probe, record)
    except (TypeError, KeyError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is no probe of this advlib ({error}): {remedy}") from error
    if foreign:
        raise ValueError(f"{path} does not belong to {record.where} ({foreign}): {remedy}")
    return probe


def _foreign(probe: Probe, record: Record) -> str | None:
    if probe.schema != PROBE_SCHEMA:
        return f"schema {probe.schema}, this advlib reads {PROBE_SCHEMA}"
    if probe.record != record.where:
        return f"it is of {probe.record}"
    if probe.config != record.as_config().digest():
        return "it is of another config"
    ours, theirs = probe.mask("clean"), record.measurement("corrected:clean").mask
    n = min(len(ours), len(theirs))
    agreement = (ours[:n] == theirs[:n]).mean()
    return f"they agree on {agreement:.0%} of clean images only" if agreement < SAME_NETWORK else None
