"""Records to figures: each function draws one and returns it. No torch.

A row has the same look in every figure: the colour says how it was trained, the marker which of ALS and SAT it has. The
lines of a legend and the panels' titles say it again in words, so nothing is told by colour alone.
"""

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from advlib import branchwise, catalogue, claims, combinations, dissection, evidence, ledger, sweeps
from advlib.captions import READABLE
from advlib.evidence import BRANCH_CASES, HEADINGS, STRONG, Group, rows_run, runs_of
from advlib.figures import PALETTE, style
from advlib.statistics import Estimate

MARKERS = {(False, False): "o", (True, False): "s", (False, True): "^", (True, True): "D"}  # (ALS, SAT)
SIDE_BY_SIDE = {"published": (-1, PALETTE[1], "s"), "corrected": (1, PALETTE[0], "o")}  # place, colour, marker
EFFECT_COLUMNS = ("clean", "fgsm-0.1", "pgd-0.1", STRONG)


def look(row: catalogue.Row) -> dict:
    """Colour and marker of a row: grey without adversarial training, blue with AdvProp, orange without it."""
    strength = (row.train_eps, row.train_step_size)
    usual = tuple(getattr(catalogue.rows()["adversarial"], name) for name in ("train_eps", "train_step_size"))
    if not row.adversarial:
        colour = (0.25, 0.25, 0.25)
    elif strength == usual:
        colour = PALETTE[0] if row.advprop else PALETTE[1]
    else:  # trained on larger steps, or larger eps
        colour = PALETTE[9] if row.advprop else PALETTE[3]
    return {"color": colour, "marker": MARKERS[row.als, row.sat]}


def tradeoff(group: Group, columns: tuple[str, str] = ("fgsm-0.1", STRONG), part: int = 1) -> Figure:
    """Clean accuracy against accuracy under attack, with 95 % intervals: the paper's Figure 4, a panel a source.

    The paper and the published protocol under the first of ``columns``, the corrected protocol under the second. Rows
    of the paper's table ``part``. Raises ValueError if none of them was run.
    """
    rows = catalogue.part(part)
    protocols = [p for p in catalogue.PROTOCOLS if rows_run(group, p, part=part)]
    if not protocols:
        raise ValueError("no record to draw: run a row first, such as `python -m advlib run advprop --budget lite`")
    under = dict(zip(catalogue.PROTOCOLS, columns, strict=True))
    with style():
        figure, panels = plt.subplots(1, 1 + len(protocols), figsize=(1.4 + 2.9 * (1 + len(protocols)), 4.2))
        for row in rows.values():
            panels[0].plot(row.published[columns[0]], row.published["clean"], ls="", ms=8, **look(row), label=row.label)
        panels[0].set(title="the paper", xlabel=_under(columns[0]), ylabel="clean accuracy (%)")
        for panel, protocol in zip(panels[1:], protocols, strict=True):
            column = under[protocol]
            for key, row in rows_run(group, protocol, part=part).items():
                robust, clean = (evidence.accuracy(group, key, protocol, name) for name in (column, "clean"))
                _cross(panel, robust, clean, look(row))
            panel.set(title=f"{protocol} protocol", xlabel=_under(column))
        figure.legend(loc="outside lower center", ncols=min(5, len(rows)), columnspacing=1.2, handletextpad=0.2)
    return figure


def learning(group: Group, protocol: str = "corrected") -> Figure:
    """Training loss, and training accuracy on clean and adversarial images, against epochs: the rows of Table 1."""
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.9), sharex=True)
        names = ("loss", "clean_accuracy", "adversarial_accuracy")
        titles = ("training loss", "clean images (%)", "adversarial images (%)")
        for panel, name, heading in zip(panels, names, titles, strict=True):
            for key, row in rows_run(group, protocol).items():
                found = runs_of(group, key, protocol)
                if name in found[0].curve[0]:
                    values = np.mean([[epoch[name] for epoch in run.curve] for run in found], axis=0)
                    values = values if name == "loss" else 100 * values
                    panel.plot(range(1, len(values) + 1), values, ms=5, lw=1.4, label=row.label, **look(row))
            panel.set(title=heading, xlabel="epoch", ylim=(0, None))
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, columnspacing=1.2)
    return figure


def against_eps(group: Group, protocol: str = "corrected") -> Figure:
    """Accuracy against the size of the attack, a panel a row of Table 1: FGSM, PGD-10 and noise of the same size."""
    rows = rows_run(group, protocol)
    kinds = {
        "noise": (r"noise-(\d+)/255", ":", PALETTE[2], "v"),
        "FGSM": (r"fgsm-(\d+)/255", "--", PALETTE[1], "s"),
        "PGD-10": (r"pgd-10-(\d+)/255", "-", PALETTE[0], "o"),
    }
    lines = -(-len(rows) // 3)
    with style():
        figure, panels = plt.subplots(
            lines, 3, figsize=(9.6, 0.8 + 2.2 * lines), sharex=True, sharey=True, squeeze=False
        )
        for panel in panels.flat[len(rows) :]:
            panel.set_visible(False)
        for panel, (key, row) in zip(panels.flat, rows.items(), strict=False):
            for name, (pattern, dashes, colour, marker) in kinds.items():
                points = _sweep(group, key, protocol, pattern, start="clean")
                _band(panel, points, label=name, color=colour, ls=dashes, marker=marker)
            panel.set(title=row.label, ylim=(0, 100))
        figure.supxlabel("eps (of 255)", fontsize=10)
        figure.supylabel("accuracy (%)", fontsize=10)
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def against_steps(group: Group, protocol: str = "corrected") -> Figure:
    """Accuracy against the number of PGD steps at eps 8/255: a curve that still falls says the attack was too short."""
    with style():
        figure, panel = plt.subplots(figsize=(6.4, 4.4))
        steps: dict[int, Estimate] = {}
        for key, row in rows_run(group, protocol).items():
            steps = _sweep(group, key, protocol, r"steps-(\d+)")
            values = [100 * estimate.value for estimate in steps.values()]
            panel.plot(list(steps), values, ms=6, lw=1.4, label=row.label, **look(row))
        panel.set(xscale="log", xlabel="PGD steps of 2/255, eps 8/255", ylabel="accuracy (%)", ylim=(0, None))
        panel.set_xticks(list(steps), [str(k) for k in steps], minor=False)
        panel.minorticks_off()
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def worst_case(cases: Sequence) -> Figure:
    """PGD-20, AutoAttack and the worst case of every network of :func:`advlib.worst.cases`, a line a network."""
    kinds = {
        "PGD-20": (lambda one: one.strong, "s", PALETTE[1], -0.2),
        "AutoAttack": (lambda one: one.after_all, "D", PALETTE[2], 0.0),
        "worst case over all attacks": (lambda one: one.accuracy, "o", PALETTE[0], 0.2),
    }
    with style():
        figure, panel = plt.subplots(figsize=(7.2, 1.5 + 0.55 * len(cases)))
        for name, (measured, marker, colour, shift) in kinds.items():
            found = [measured(one) for one in cases]
            value, low, high = (np.array([100 * getattr(e, part) for e in found]) for part in ("value", "low", "high"))
            places = np.arange(len(cases)) + shift
            spread = [value - low, high - value]
            panel.errorbar(value, places, xerr=spread, fmt=marker, color=colour, ms=6, capsize=2, label=name)
        panel.set_yticks(range(len(cases)), [one.title for one in cases])
        panel.set(xlabel="accuracy under attacks of eps 8/255 (%)", xlim=(-0.5, None), ylim=(len(cases) - 0.5, -0.5))
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def settings(group: Group) -> Figure:
    """Every experiment beyond the paper against its row: what it adds on clean images and under PGD-20, a line each."""
    lines = sweeps.lines(group)
    names = [f"{extension.label}\n− {catalogue.rows()[extension.base].label}" for extension, _ in lines]
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(8.4, 1.0 + 0.48 * len(lines)), sharey=True)
        for panel, column, colour in zip(panels, sweeps.ANSWERED, PALETTE, strict=False):
            for position, (_, found) in enumerate(lines):
                _dot(panel, found[column], position, colour, "o", None)
            panel.axvline(0, color="black", lw=1)
            panel.set(title=HEADINGS[column], xlabel="difference (points)")
        _rows_on_y(panels[0], names)
    return figure


def transfers(found: Mapping[tuple[str, str], Estimate]) -> Figure:
    """Images made on one row (a line) and shown to another (a column), what is right of them; framed: the white box.

    ``found``: as :func:`advlib.masking.transfers` has it.
    """
    keys = [key for key in catalogue.rows() if any(key in pair for pair in found)]
    names = [catalogue.unique_name(key) for key in keys]
    grid = np.array([[100 * found[a, b].value if (a, b) in found else np.nan for b in keys] for a in keys])
    with style():
        side = 2.4 + 0.42 * len(keys)
        figure, panel = plt.subplots(figsize=(side + 0.6, side))
        sns.heatmap(
            grid, ax=panel, vmin=0, vmax=100, cmap="cividis", annot=True, fmt=".0f", annot_kws={"size": 7}, cbar=False,
            square=True, xticklabels=names, yticklabels=names,
        )  # fmt: skip
        for k in range(len(keys)):
            panel.add_patch(Rectangle((k, k), 1, 1, fill=False, edgecolor=PALETTE[3], linewidth=2))
        panel.set(xlabel="shown to", ylabel="made on")
        panel.tick_params(axis="x", rotation=90, labelsize=8)
        panel.tick_params(axis="y", rotation=0, labelsize=8)
    return figure


def branches(group: Group, protocol: str = "corrected") -> Figure:
    """AdvProp's two batch norms: accuracy of each, clean and attacked through itself and through the other one."""
    rows = {key: row for key, row in rows_run(group, protocol).items() if row.advprop}
    columns = [column for _, *both in BRANCH_CASES for column in both]
    measured = {key: evidence.by_corrected_rule(group, key, protocol, columns) for key in rows}
    with style():
        figure, panels = plt.subplots(1, len(BRANCH_CASES), figsize=(9.6, 1.6 + 0.42 * len(rows)), sharey=True)
        for panel, (heading, main, auxiliary) in zip(panels, BRANCH_CASES, strict=True):
            for position, key in enumerate(rows):
                for offset, column, name, colour, marker in [
                    (-0.13, main, "main", PALETTE[0], "o"),
                    (0.13, auxiliary, "auxiliary", PALETTE[1], "s"),
                ]:
                    estimate = measured[key][column]
                    _dot(panel, estimate, position + offset, colour, marker, name if position == 0 else None)
            panel.set(title=heading, xlabel="accuracy (%)", xlim=(0, None))
        _rows_on_y(panels[0], [row.label for row in rows.values()])
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def combined(crossings: Sequence[combinations.Crossing]) -> Figure:
    """The four networks inside each of AdvProp's: a line of panels a network, a panel an attack, a dot a way to cross.

    Raises ValueError while none was measured.
    """
    if not crossings:
        raise ValueError("no four networks to draw: `python -m advlib combine advprop --budget lite` measures them")
    looks = {combinations.KEPT: (-0.14, PALETTE[1], "s"), combinations.ANEW: (0.14, PALETTE[0], "o")}
    with style():
        size = (9.8, 1.0 + 1.75 * len(crossings))
        figure, lines = plt.subplots(
            len(crossings), len(combinations.COLUMNS), figsize=size, sharex="col", sharey=True, squeeze=False
        )
        for panels, crossing in zip(lines, crossings, strict=True):
            for panel, column in zip(panels, combinations.COLUMNS, strict=True):
                for way, (offset, *look_) in looks.items():
                    for position, pair in enumerate(combinations.PAIRS):
                        label = branchwise.SAID[way] if position == 0 else None
                        _dot(panel, crossing.accuracy(way, pair, column), position + offset, *look_, label)
                panel.set_title(HEADINGS[column])
                panel.set_xlim(0, None)
            _rows_on_y(panels[0], [" + ".join(pair) for pair in combinations.PAIRS])
            panels[0].set_ylabel(f"{branchwise.title(crossing).replace(', ', chr(10))}\n", fontsize=9)
        for panel in lines[-1]:
            panel.set_xlabel("accuracy (%)")
        figure.supylabel("statistics + affine parameters", fontsize=10)
        figure.legend(*lines[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def factorial(group: Group) -> Figure:
    """Effects of AdvProp, ALS and SAT on top of adversarial training, and their interactions, in percentage points.

    Raises ValueError while a row of the 2x2x2 is missing under both protocols.
    """
    with style():
        figure, panels = plt.subplots(1, len(EFFECT_COLUMNS), figsize=(9.8, 4.0), sharey=True)
        names: list[str] = []
        for panel, column in zip(panels, EFFECT_COLUMNS, strict=True):
            panel.axvline(0, color="black", lw=1)
            for protocol, (side, *looks) in SIDE_BY_SIDE.items():
                effects = evidence.factorial(group, protocol, column) or {}
                for position, estimate in enumerate(effects.values()):
                    _dot(panel, estimate, position + 0.15 * side, *looks, protocol if position == 0 else None)
                names = names or [" x ".join(chosen) for chosen in effects]
            panel.set(title=HEADINGS[column], xlabel="effect (points)")
        if not names:
            raise ValueError(
                f"the factorial needs the rows {', '.join(catalogue.factorial().values())}: run them first"
            )
        _rows_on_y(panels[0], names)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def waterfall(group: Group, key: str, column: str) -> Figure:
    """Accuracy of one row from the published to the corrected protocol, a switch at a time.

    Raises ValueError while a run on the way is missing.
    """
    walk = dissection.walk(group, key, column)
    if walk is None:
        raise ValueError(f"the way from published to corrected has a gap for {key}: run its dissection first")
    names = ["published", *walk.names, "corrected"]
    with style():
        figure, panel = plt.subplots(figsize=(6.8, 0.9 + 0.38 * len(names)))
        end = _ends(panel, 0, walk.start)
        for position, effect in enumerate(walk.changes, start=1):
            change = 100 * effect.value
            colour, sign = (PALETTE[0], "+") if change >= 0 else (PALETTE[1], "")
            panel.barh(
                position, change, left=end, height=0.6, color=colour, hatch=None if change >= 0 else "///", ec="w"
            )
            interval = [[change - 100 * effect.low], [100 * effect.high - change]]
            panel.errorbar(end + change, position, xerr=interval, fmt="none", color="black", capsize=2, lw=1)
            panel.annotate(f"{sign}{change:.1f}", (1.01, position), xycoords=("axes fraction", "data"), va="center")
            panel.plot([end, end], [position - 1, position], color="0.6", lw=0.8, zorder=0)
            end += change
        _ends(panel, len(names) - 1, walk.end)
        _rows_on_y(panel, names)
        panel.set(xlabel="clean accuracy (%)" if column == "clean" else _under(column), xlim=(0, None))
        panel.set_title(catalogue.rows()[key].label)
    return figure


def forest(rulings: Sequence[claims.Ruling]) -> Figure:
    """Every comparison of the ledger, a line a pair of rows, a panel a column: the paper's difference, and ours.

    In percentage points. Where several claims rest on one comparison, the widest of its intervals is drawn.
    """
    found: dict[tuple[str, str], dict[str, claims.Finding]] = {}  # (pair, column) -> trial -> finding
    for ruling in rulings:
        if ruling.trial in SIDE_BY_SIDE:
            for finding in ruling.findings:
                by_trial = found.setdefault((ledger.pair(finding.comparison), finding.comparison.column), {})
                by_trial[ruling.trial] = max(by_trial.get(ruling.trial, finding), finding, key=_width)
    if not any(finding.estimate for by_trial in found.values() for finding in by_trial.values()):
        raise ValueError("no claim can be judged yet: run the rows that one compares")
    pairs = list(dict.fromkeys(pair for pair, _ in found))
    with style():
        size = (10.4, 1.5 + 0.27 * len(pairs))
        figure, panels = plt.subplots(1, len(catalogue.COLUMNS), figsize=size, sharey=True)
        for panel, (column, heading) in zip(panels, catalogue.COLUMNS.items(), strict=True):
            panel.axvline(0, color="black", lw=1)
            panel.set_title(heading)
            for (pair, of_column), by_trial in found.items():
                if of_column == column:
                    _compare(panel, pairs.index(pair), by_trial)
        _rows_on_y(panels[0], pairs)
        panels[0].tick_params(axis="y", labelsize=8)
        panels[0].grid(axis="y", visible=True)  # the eye needs a line from a name to the last panel
        figure.supxlabel("difference in accuracy (points)", fontsize=10)
        looks = {
            label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(looks.values(), looks.keys(), loc="outside upper right", ncols=3)
    return figure


def per_class(group: Group, labels: np.ndarray, protocol: str = "corrected", columns=("clean", STRONG)) -> Figure:
    """Accuracy of each class, a panel a column, a line a row of Table 1. ``labels``: int (n,), of the test images.

    Of more classes than can be read, the hardest and the easiest, by the mean of the first column's rows.
    """
    rows = rows_run(group, protocol)
    classes = np.array(group[0].data["classes"])
    grids = [
        np.array([_by_class(group, key, protocol, column, labels, len(classes)) for key in rows]) for column in columns
    ]
    shown = np.arange(len(classes))
    if len(classes) > READABLE:
        order = np.argsort(np.nan_to_num(grids[0], nan=50.0).mean(axis=0), kind="stable")
        shown = np.concatenate([order[: READABLE // 2], order[-READABLE // 2 :]])
    with style():
        size = (9.8, 1.6 + 0.36 * len(rows)) if len(shown) <= 10 else (16, 2.4 + 0.36 * len(rows))
        figure, panels = plt.subplots(1, len(columns), figsize=size, sharey=True)
        for panel, column, grid in zip(panels, columns, grids, strict=True):
            sns.heatmap(
                grid[:, shown],
                ax=panel,
                vmin=0,
                vmax=100,
                cmap="cividis",
                annot=True,
                fmt=".0f",
                annot_kws={"size": 7},
                cbar=False,
                xticklabels=classes[shown],
                yticklabels=[row.label for row in rows.values()],
            )
            panel.set_title(f"{HEADINGS[column]} (%)")
            panel.tick_params(axis="x", rotation=60)
            panel.tick_params(axis="y", rotation=0)
    return figure


def _by_class(group: Group, key: str, protocol: str, column: str, labels: np.ndarray, classes: int) -> list[float]:
    """Accuracy of a row on each class, in percent; nan for a class without an image."""
    masks = [evidence.worst_mask(run, f"corrected:{column}") for run in runs_of(group, key, protocol)]
    of = labels[: masks[0].size]
    return [100 * np.mean([mask[of == k] for mask in masks]) if (of == k).any() else np.nan for k in range(classes)]


def _under(column: str) -> str:
    return f"accuracy under {HEADINGS[column]} (%)"


def _cross(panel, x: Estimate, y: Estimate, look: dict) -> None:
    """A point with both of its intervals, in percent."""
    panel.errorbar(
        100 * x.value,
        100 * y.value,
        xerr=[[100 * (x.value - x.low)], [100 * (x.high - x.value)]],
        yerr=[[100 * (y.value - y.low)], [100 * (y.high - y.value)]],
        fmt=look["marker"],
        color=look["color"],
        ms=8,
        capsize=2,
        lw=0.9,
    )


def _dot(panel, estimate: Estimate, position: float, colour, marker: str, label: str | None) -> None:
    """An estimate and its interval along x, in percent or points."""
    value, low, high = (100 * v for v in (estimate.value, estimate.low, estimate.high))
    panel.errorbar(
        value,
        position,
        xerr=[[value - low], [high - value]],
        fmt=marker,
        color=colour,
        ms=5,
        capsize=2,
        lw=1,
        label=label,
    )


def _compare(panel, position: int, by_trial: dict[str, claims.Finding]) -> None:
    """One comparison: the paper's difference, and those that were measured."""
    (published, *_) = (finding.comparison.published for finding in by_trial.values())
    panel.plot(100 * published, position, "D", mfc="white", mec="black", ms=5, label="the paper")
    for trial, finding in by_trial.items():
        if finding.estimate:
            side, *looks = SIDE_BY_SIDE[trial]
            _dot(panel, finding.estimate, position + 0.17 * side, *looks, trial)


def _width(finding: claims.Finding) -> float:
    return finding.estimate.high - finding.estimate.low if finding.estimate else -1.0


def _band(panel, points: dict[int, Estimate], **line) -> None:
    x = list(points)
    estimates = points.values()
    value, low, high = (np.array([100 * getattr(e, name) for e in estimates]) for name in ("value", "low", "high"))
    panel.plot(x, value, ms=4, lw=1.5, **line)
    panel.fill_between(x, low, high, color=line["color"], alpha=0.15, lw=0)


def _ends(panel, position: int, estimate: Estimate) -> float:
    """The bar at either end of a waterfall; returns where it ends, in percent."""
    panel.barh(position, 100 * estimate.value, height=0.6, color="0.55")
    panel.annotate(f"{100 * estimate.value:.1f}", (1.01, position), xycoords=("axes fraction", "data"), va="center")
    return 100 * estimate.value


def _rows_on_y(panel, names: Sequence[str]) -> None:
    """Names down the y axis, the first on top."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)


def _sweep(group: Group, key: str, protocol: str, pattern: str, start: str | None = None) -> dict[int, Estimate]:
    """What was measured of a sweep: the whole number in the column's name -> accuracy, in order, on the same images.

    ``start``: the column of no attack, which stands at 0.
    """
    found = {0: start} if start else {}
    for measurement in runs_of(group, key, protocol)[0].measurements:
        if match := re.fullmatch(f"corrected:({pattern})", measurement.name):
            found[int(match[2])] = match[1]
    found = dict(sorted(found.items()))
    measured = evidence.by_corrected_rule(group, key, protocol, found.values())
    return {k: measured[column] for k, column in found.items()}
