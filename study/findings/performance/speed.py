"""What ``benchmarks/`` measured, as it is read: ratios, tables, sentences, figures. No torch.

A ratio is taken inside each round of a race, in which the contestants do the same work in turn; its median over the
rounds is what is said, with the smallest and the largest beside it.
"""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from study.machine.folders import project_folder
from study.plan import arithmetic, catalogue
from study.presentation.figures import PALETTE, style
from study.presentation.markup import NO_NUMBER, group_title, row, span, table, together
from study.presentation.words import Words

OURS = ("ours, float32", "ours", "ours, fast")
COMMON = "common practice"
ALONG = {"batch": "clean images in a batch", "width": "width of the network", "steps": "steps of the attack"}
TITLES = {
    "crafting": "Adversarial images, beside four libraries",
    "training": "A training step, beside common practice",
    "levers": "What each lever gives",
    "curves": "The rate along batch, width and attack steps",
    "threads": "One run with all threads, or one a run",
    "start-up": "Before anything is trained",
    "where": "Where a training step spends its time",
    "half": "What half precision leaves of the attack's gradient",
    "tf32": "What TensorFloat-32 changes of an evaluation",
}
RACES = ("crafting", "training", "levers", "threads")


@dataclass(frozen=True)
class Measured:
    """What one machine answered: question -> {"machine": ..., "rows": [...]}."""

    name: str
    answers: Mapping[str, dict]

    def rows(self, question: str) -> list[dict]:
        return self.answers[question]["rows"] if question in self.answers else []

    def races(self, question: str) -> dict[str, dict[str, dict]]:
        """Setting -> contestant -> its row; nothing for a question that is no race."""
        found: dict[str, dict[str, dict]] = {}
        for line in self.rows(question) if question in RACES else ():
            found.setdefault(line["setting"], {})[line["contestant"]] = line
        return found

    @property
    def device(self) -> str:
        return next(iter(self.answers.values()))["machine"]["device"].partition(": ")[2]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast, with the extremes over the rounds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def read(folder: Path | None = None) -> list[Measured]:
    """Every machine's results, those of GPUs first. Raises ValueError, naming the file, on one that is damaged."""
    folder = folder or (project_folder() or Path.cwd()) / "benchmarks" / "results"
    found = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (not path.name.startswith("cuda"), path.name)):
        try:
            answers = json.loads(path.read_text())
            if unknown := sorted(set(answers) - set(TITLES)):
                raise ValueError(f"unknown question {unknown[0]!r}")
            if not answers or not all({"machine", "rows"} <= set(answer) for answer in answers.values()):
                raise ValueError("an answer without its machine or its rows")
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is no result of `make bench` ({error}): delete it, or measure again") from error
        found.append(Measured(path.stem, answers))
    return found


def summary(measured: Measured) -> str:
    """The ratios, a line a race, as a list in Markdown: what a reader wants first."""
    said = []
    for setting, race in measured.races("crafting").items():
        peer = fastest_peer(race)
        exact, fast = (faster(race[name], race[peer]) for name in ("ours, float32", "ours, fast"))
        same = "in the same precision" if on_gpu(measured) else "in float32"
        said.append(
            f"- {setting}: {exact.value:.2f} times as fast as {peer}, the fastest of the four libraries, {same}, "
            f"and {fast.value:.1f} times in the fast mode."
        )
    for setting, race in measured.races("training").items():
        usual, fast = (faster(race[name], race[COMMON]) for name in ("ours", "ours, fast"))
        share = share_of_peak(measured, "training", race["ours, fast"])
        said.append(
            f"- A training step, {setting}: {usual} times as fast as common practice, "
            f"{fast} times in the fast mode, which reaches {100 * share:.0f} % of what the device's matrix "
            "product reaches."
        )
    return "\n".join(said)


def on_gpu(measured: Measured) -> bool:
    return measured.name.startswith("cuda")


def question(measured: Measured, name: str) -> str:
    """One question's answer as HTML tables, one a race; empty if it was not asked there."""
    if name == "start-up" and measured.rows(name):
        body = [row(line["what"], [f"{line['seconds']:.2f}"]) for line in measured.rows(name)]
        return table(["", "Seconds"], body, f"{TITLES[name]}. The shortest of several starts.")
    if name == "half" and measured.rows(name):
        return _half(measured.rows(name))
    return together(_race(measured, name, setting, race) for setting, race in measured.races(name).items())


def bars(measured: Measured) -> Figure:
    """What each lever gives: how many times as fast as the fast mode a step is without it, or with it added."""
    races = measured.races("levers")
    names = [name for name in next(iter(races.values())) if name != "fast"]
    with style():
        figure, panels = plt.subplots(1, len(races), figsize=(9.6, 0.9 + 0.46 * len(names)), sharey=True, squeeze=False)
        for panel, (setting, race) in zip(panels.flat, races.items(), strict=True):
            for position, name in enumerate(names):
                ratio = faster(race[name], race["fast"])
                colour = PALETTE[1] if name.startswith("without") else PALETTE[0]
                panel.barh(position, ratio.value, height=0.62, color=colour)
                reach = [[ratio.value - ratio.low], [ratio.high - ratio.value]]
                panel.errorbar(ratio.value, position, xerr=reach, fmt="none", color="black", capsize=2, lw=1)
            panel.axvline(1, color="black", lw=1)
            panel.set(title=setting, xlabel="times as fast as the fast mode", xlim=(0, None))
            panel.grid(visible=False, axis="y")
        panels[0, 0].set_yticks(range(len(names)), [textwrap.fill(name, 46) for name in names])
        panels[0, 0].invert_yaxis()
    return figure


def helped(measured: Measured) -> str:
    """Which levers that are not part of the fast mode helped and which did not, at each setting, in sentences."""
    said = []
    for setting, race in measured.races("levers").items():
        base = race["fast"]
        added = {name: faster(line, base) for name, line in race.items() if name.startswith("with ")}
        gains = [f"{name[5:]} ({ratio.value:.2f})" for name, ratio in added.items() if ratio.low > 1]
        losses = [f"{name[5:]} ({ratio.value:.2f})" for name, ratio in added.items() if ratio.low <= 1]
        title = f"{setting[0].upper()}{setting[1:]}"
        said.append(f"{title}: faster in every round with {_listed(gains)}; not with {_listed(losses)}.")
    return " ".join(said)


def lines(measured: Measured) -> Figure:
    """Images a second, and peak memory, along batch, width and attack steps."""
    rows = measured.rows("curves")
    along = [name for name in ALONG if any(line["along"] == name for line in rows)]
    with style():
        figure, panels = plt.subplots(2, len(along), figsize=(9.6, 5.0), sharex="col", squeeze=False)
        for column, name in enumerate(along):
            chosen = [line for line in rows if line["along"] == name]
            places = [line[name] for line in chosen]
            fixed = {other: chosen[0][other] for other in ALONG if other != name}
            panels[0, column].plot(places, [line["images_per_second"] for line in chosen], "o-", color=PALETTE[0])
            panels[1, column].plot(places, [line["peak_memory_gb"] for line in chosen], "s-", color=PALETTE[1])
            panels[0, column].set(title=", ".join(f"{other} {value}" for other, value in fixed.items()), ylim=(0, None))
            panels[1, column].set(xlabel=ALONG[name], ylim=(0, None), xscale="log")
            panels[1, column].set_xticks(places, [str(place) for place in places])
            panels[1, column].minorticks_off()
        panels[0, 0].set_ylabel("images a second")
        panels[1, 0].set_ylabel("peak memory (GB)")
    return figure


def spent(measured: Measured) -> Figure:
    """The share of a fast training step that each kind of operator takes."""
    rows = measured.rows("where")
    with style():
        figure, panel = plt.subplots(figsize=(7.2, 0.8 + 0.34 * len(rows)))
        for position, line in enumerate(rows):
            panel.barh(position, 100 * line["share"], height=0.62, color=PALETTE[0])
            panel.annotate(
                f"{100 * line['share']:.0f}",
                (100 * line["share"], position),
                (4, 0),
                va="center",
                textcoords="offset points",
            )
        panel.set_yticks(range(len(rows)), [line["kind"] for line in rows])
        panel.invert_yaxis()
        panel.grid(visible=False, axis="y")
        panel.set(xlabel="share of the operators' time (%)")
    return figure


def spent_words(measured: Measured) -> Words:
    shares = ", ".join(f"{line['kind']} {100 * line['share']:.0f} %" for line in measured.rows("where"))
    return {
        "caption": f"Share of the operators' own time in a fast training step, on {measured.device}.",
        "alt": f"Bars, one for each kind of operator: {shares}.",
    }


def left_of_the_gradient(measured: Measured) -> str:
    """The worst of the networks at the largest logits, by each way, in sentences; empty if it was not asked there."""
    rows = measured.rows("half")
    largest = max((line["times"] for line in rows), default=0)

    def extreme(way: str, what: str) -> str:
        found = [line[what] for line in rows if line["way"] == way and line["times"] == largest]
        return f"{100 * (max(found) if what == 'zeros' else min(found)):.1f} %"

    if not rows:
        return ""
    plain, times, odds = "float16, cross-entropy", "float16, cross-entropy × 1,024", "float16, log-odds"
    return (
        f"With logits {largest} times as large, up to {extreme(plain, 'zeros')} of the gradient's entries are 0 in "
        f"float16, and as few as {extreme(plain, 'signs')} of the signs are right; a loss times 1,024 still leaves "
        f"{extreme(times, 'zeros')} zeros. Of the log-odds' entries {extreme(odds, 'zeros')} are 0, and at least "
        f"{extreme(odds, 'signs')} of the signs are right. In float32 cross-entropy keeps "
        f"{extreme('float32, cross-entropy', 'signs')} of them and in bfloat16 "
        f"{extreme('bfloat16, cross-entropy', 'signs')}: for a sure network 1 - p is itself lost in rounding."
    )


def rounding_changes(measured: Measured) -> str:
    """How many verdicts of an evaluation TensorFloat-32 changes, in a sentence; empty if it was not asked there."""
    rows = measured.rows("tf32")
    if not rows:
        return ""
    most = max(rows, key=lambda line: line["changed"] / line["images"])
    further = max(abs(line["more"]) / line["images"] for line in rows)
    names = [catalogue.unique_name(key) for key in dict.fromkeys(line["network"] for line in rows)]
    return (
        f"Measured on {' and '.join(names)} of the corrected protocol in both ways, under the paper's attacks in "
        f"pixels and PGD-20, it changes the verdict on at most {most['changed']} of {most['images']:,} images under "
        f"one attack, and no accuracy by more than {100 * further:.1f} points."
    )


def text(measured: Measured) -> str:
    """For a terminal: every answer, a line a contestant."""
    lines = [measured.device]
    for name, title in TITLES.items():
        if not measured.rows(name):
            continue
        lines += ["", title]
        if name == "start-up":
            lines += [f"  {line['what']:50s} {line['seconds']:8.3f} s" for line in measured.rows(name)]
        if name == "curves":
            for line in measured.rows(name):
                rate = f"{line['images_per_second']:10,.1f} images/s {line['peak_memory_gb']:6.2f} GB"
                lines.append(f"  {line['contestant']:24s} {rate}")
        if name == "where":
            lines += [f"  {line['kind']:50s} {100 * line['share']:8.1f} %" for line in measured.rows(name)]
        if name == "half":
            for line in measured.rows(name):
                kept = f"{100 * line['zeros']:6.2f} % zeros, {100 * line['signs']:5.1f} % signs"
                lines.append(f"  {line['network']:20s} x {line['times']:<3d} {line['way']:34s} {kept}")
        if name == "tf32":
            lines += textwrap.wrap(rounding_changes(measured), 100, initial_indent="  ", subsequent_indent="  ")
        for setting, race in measured.races(name).items():
            to = fastest_peer(race) if name == "crafting" else next(iter(race))
            lines.append(
                f"  {setting} (times as fast as {to}, smallest to largest of {len(race[to]['rounds'])} rounds)"
            )
            for contestant, line in race.items():
                rate = f"{line['images_per_second']:10,.1f} images/s {line['peak_memory_gb']:6.2f} GB"
                lines.append(f"    {contestant:75s} {faster(line, race[to])!s:24s} {rate}")
    return "\n".join(lines) + "\n"


def faster(line: dict, reference: dict) -> Ratio:
    """How many times as fast as ``reference`` the contestant of ``line`` is. Both must be of one race."""
    ratios = [theirs / own for theirs, own in zip(reference["rounds"], line["rounds"], strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def fastest_peer(race: Mapping[str, dict]) -> str:
    """The contestant that is not ours and needs the least time."""
    return min((name for name in race if name not in OURS), key=lambda name: median(race[name]["rounds"]))


def share_of_peak(measured: Measured, question: str, line: dict) -> float:
    """The share of the device's measured matrix product, in the step's own precision, that a training step reaches."""
    width = int(line["setting"].split()[1].rstrip(","))
    operations = arithmetic.training(catalogue.config("adversarial", width=width, epochs=1), 1)
    exact = line["contestant"] in (COMMON, "ours, float32", "without bfloat16")
    peaks = measured.answers[question]["machine"]["matrix_product_tflops"]
    peak = peaks["float32"] if exact else next(rate for name, rate in peaks.items() if name != "float32")
    return operations * line["images_per_second"] / (1e12 * peak)


def _race(measured: Measured, name: str, setting: str, race: Mapping[str, dict]) -> str:
    heads, cells, note = _columns(measured, name, race)
    body = [row(contestant, cells(line)) for contestant, line in race.items()]
    return table(["", *heads], body, f"{measured.device}: {setting}. {note}")


def _columns(measured: Measured, name: str, race: Mapping[str, dict]):
    """Headings, a line's cells, and the caption of a race's table: what is compared with what."""

    def ratio(line: dict, to: str) -> str:
        if line["contestant"] == to:
            return "1"
        found = faster(line, race[to])
        return together([f"{found.value:.2f}", span("interval", f"{found.low:.2f} to {found.high:.2f}")])

    def rate(line: dict) -> list[str]:
        return [f"{line['images_per_second']:,.0f}", f"{line['peak_memory_gb']:.2f}"]

    def share(line: dict) -> str:
        """Not of what mixes precisions: on a GPU torch's own float32 is TensorFloat-32, whose peak is not measured."""
        mixed = line["contestant"] == COMMON and on_gpu(measured)
        return NO_NUMBER if mixed else f"{100 * share_of_peak(measured, name, line):.0f}"

    rates = ["Images a second", "Peak memory (GB)"]
    spread = "Below each ratio, the smallest and the largest of the rounds."
    if name == "crafting":
        peer = fastest_peer(race)
        return (
            [f"Times as fast as {peer}", *rates, "Largest difference to ours"],
            lambda line: [ratio(line, peer), *rate(line), f"{line.get('largest_difference', 0):.2g}"],
            f"The fastest library of the four is {peer}. {spread}",
        )
    if name == "training":
        return (
            [f"Times as fast as {COMMON}", *rates, "Share of the matrix peak (%)"],
            lambda line: [ratio(line, COMMON), *rate(line), share(line)],
            f"The peak is the device's own matrix product, in float32 for what trains in float32. {spread}",
        )
    first = next(iter(race))
    return (
        [f"Times as fast as “{first}”", *rates],
        lambda line: [ratio(line, first), *rate(line)],
        spread,
    )


def _half(rows: Sequence[dict]) -> str:
    times = sorted({line["times"] for line in rows})
    heads = [f"{what}, × {k}" for what in ("Zeros (%)", "Signs (%)") for k in times]
    body, shares = [], {(line["network"], line["way"], line["times"]): line for line in rows}
    for network in dict.fromkeys(line["network"] for line in rows):
        body.append(group_title(catalogue.unique_name(network), 1 + len(heads)))
        for way in dict.fromkeys(line["way"] for line in rows):
            lines = [shares[network, way, k] for k in times]
            cells = [f"{100 * line['zeros']:.2f}" for line in lines] + [f"{100 * line['signs']:.1f}" for line in lines]
            body.append(row(way, cells))
    note = (
        f"Gradients by {rows[0]['images']:,} test images of three networks of the small budget, with logits as they "
        "are and multiplied to stand for a longer training. Zeros: entries that became 0. Signs: entries whose sign is "
        "that in float64. What is 0 in float64 does not count."
    )
    return table(["", *heads], body, f"{TITLES['half']}. {note}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none of them"
