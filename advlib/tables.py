"""Records to the book's tables and to the sentences about them. No torch; nothing here is typed that a record knows.

A table shows what there is and says what is missing. What has to be there and is not raises, and so fails the book's
build.
"""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from advlib import arithmetic, catalogue, evidence, records, versions
from advlib.evidence import HEADINGS, STRONG, Group, runs_of
from advlib.markup import (
    NO_NUMBER,
    NO_SEED,
    accuracy,
    counts,
    duration,
    group_title,
    length,
    link,
    links,
    points,
    row,
    table,
)
from advlib.passport import command
from advlib.records import Record
from advlib.statistics import rank_correlation

CIFAR_TRAINING = 50_000  # training images of CIFAR-10
SMOKE_ROWS = ("traditional", "adversarial", "advprop", "als", "sat", "als-sat-advprop")  # what `make book` runs


def describe(group: Group) -> str:
    """Budget, data, sizes and seeds of a group, as the sentence that stands beside its numbers."""
    first = group[0]
    seeds = evidence.seeds_a_row(group)
    columns = {f"{rule}:{column}" for rule in catalogue.PROTOCOLS for column in catalogue.COLUMNS}
    tested = sorted({m.n for record in group for m in record.measurements if m.name in columns})
    trained = sorted({record.data["train_images"] for record in group})
    return (
        f"Budget **{first.budget}** on **{first.data['title']}**: width {first.config['width']}, "
        f"{first.config['epochs']} epochs, {counts(trained)} training images, {counts(tested)} test images, "
        f"{counts(seeds)} {'seed' if seeds == [1] else 'seeds'} a row."
    )


def status(root: Path) -> str:
    """What a page says in the place of results while the paper's data have none, as Markdown."""
    if found := evidence.groups(root):
        return (
            f"**There is no result on the paper's data yet**, so the paper is not judged. Runs on other data are here: "
            f"{_named(found)}; [the tables](results.md) have their numbers."
        )
    if stale := evidence.stale(root):
        return f"**There is no result yet.** {len(stale)} recorded runs are stale: today the code makes other ones."
    smoke = len(records.collect(root, budget="smoke"))
    return (
        "**There is no result yet.** No run at budget lite, brief or full has been recorded here; the "
        f"{smoke} smoke {'run' if smoke == 1 else 'runs'} that this book was built with show that the machinery works, "
        "and nothing else. A first result takes minutes: `python -m advlib run advprop --budget lite --seed 0`."
    )


def also_here(groups: Sequence[Group], best: Sequence[Group]) -> str:
    """The groups of records that the paper is not judged by, as a sentence of Markdown; empty if there are none."""
    others = [group for group in groups if group not in best]
    return f"Also run, and not what this book judges the paper by: {_named(others)}." if others else ""


def _named(groups: Sequence[Group]) -> str:
    nouns = {True: "run", False: "runs"}
    return ", ".join(
        f"{group[0].budget} on {group[0].data['title']} ({len(group)} {nouns[len(group) == 1]})" for group in groups
    )


def left_out(root: Path) -> str:
    """How many records no longer count, as a sentence of Markdown; empty if all of them count."""
    stale = [record for record, _ in evidence.stale(root)]
    if not stale:
        return ""
    seeds = " ".join(map(str, sorted({record.seed for record in stale})))
    asked = [f"`python -m advlib status --budget {name} --seeds {seeds}`" for name in sorted({r.budget for r in stale})]
    return (
        f"Left out, because the code would make them otherwise today: {_kinds(stale)}. {' and '.join(asked)} says why, "
        "of each (`--dissection`: of those in between)."
    )


def totals(found: Sequence[Record]) -> str:
    """How many runs there are, of which protocols, and how long they took, as a sentence of Markdown."""
    hours = sum(record.seconds for record in found) / 3600
    seeds = counts(sorted({record.seed for record in found}))
    return f"**{len(found)} runs** ({_kinds(found)}; seed {seeds}) took {hours:.1f} hours of computing."


def _kinds(found: Sequence[Record]) -> str:
    """How many runs are of which protocol: "18 published, 36 corrected, 20 in between"."""
    kinds = dict.fromkeys((*catalogue.PROTOCOLS, "in between"), 0)
    for record in found:
        kinds[record.protocol if record.protocol in kinds else "in between"] += 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def caution(group: Group) -> str:
    """What a reader must know before the first number, as HTML: of which size and data the results are."""
    said = describe(group).replace("**", "")
    if group[0].budget == "full":
        return f'<div class="admonition note"><p class="admonition-title">The results</p><p>{said}</p></div>'
    full = catalogue.config("traditional")
    return (
        '<div class="admonition warning"><p class="admonition-title">Results of a small budget</p>'
        f"<p>{said} They can show the sign of an effect and the order of the rows. They "
        f"cannot reach the paper's numbers, which are of width {full.width}, trained on all images for {full.epochs} "
        "epochs.</p></div>"
    )


def missing(group: Group, part: int | None) -> str:
    """The rows of a part of the paper that a group has not run, as a sentence of Markdown; empty if none is missing."""
    absent = [
        f"{row.label} ({protocol}, `{key}`)"
        for key, row in catalogue.part(part).items()
        for protocol in catalogue.PROTOCOLS
        if not runs_of(group, key, protocol)
    ]
    return f"Not run yet: {', '.join(absent)}." if absent else ""


def headline(group: Group) -> str:
    """The cover's table as HTML: clean accuracy three times, and accuracy under the one strong attack, row by row."""
    body = []
    for key, paper in catalogue.part(1).items():
        measured = [
            evidence.accuracy(group, key, protocol, column)
            for column in ("clean", STRONG)
            for protocol in catalogue.PROTOCOLS
        ]
        if any(measured):
            body.append(row(escape(paper.label), [f"{paper.published['clean']:.1f}", *map(accuracy, measured)]))
    heads = ["Row", "Clean: paper", "published", "corrected", f"{HEADINGS[STRONG]}: published", "corrected"]
    return table(
        heads,
        body,
        "Accuracy in percent, with 95 % intervals. The attack of the last two columns is the same: pixels, restarts, "
        "true and surrogate gradients. The protocol is that of the training.",
    )


def results(group: Group, part: int | None = 1, *, page: str = "book", root: Path | None = None) -> str:
    """One of the paper's tables as HTML: for each of its rows that was run, the paper's numbers and ours.

    ``part`` is 1, 2, or None for the rows of neither table. ``page`` is the folder of the page that shows it, for the
    links to the run pages. Raises FileNotFoundError where a record has lost its notebook, ValueError where the group
    has no row of that part.
    """
    heads = ["Protocol", *HEADINGS.values()]
    body = []
    for key, paper in catalogue.part(part).items():
        lines = []
        for protocol in catalogue.PROTOCOLS:
            if runs := runs_of(group, key, protocol):
                cells = [evidence.accuracy(group, key, protocol, column) for column in HEADINGS]
                planned = _planned(runs) if part == 1 else ""
                notes = planned + _trained_in(runs)
                head = f'{protocol}<span class="interval">{notes}{links(runs, page, root)}</span>'
                lines.append(row(head, [accuracy(cell) for cell in cells], protocol))
        if lines:
            printed = [*(f"{paper.published[column]:.1f}" for column in catalogue.COLUMNS), NO_NUMBER]
            head = group_title(title(paper), len(heads))
            body.append(f"<tbody>{head}{row('paper', printed, 'paper')}{''.join(lines)}</tbody>")
    if not body:
        raise ValueError(f"this group of records has no row of {catalogue.PARTS[part]}: run one first")
    caption = (
        f"Accuracy in percent. Paper: as printed there. Published and corrected: measured here, at budget "
        f"{group[0].budget} on {group[0].data['title']}, with the 95 % interval of each number below it. "
        f"{HEADINGS[STRONG]} is not in the paper, and is the same attack for both protocols."
    )
    return table(heads, body, caption)


def frame(group: Group, part: int | None, protocol: str) -> pd.DataFrame:
    """One of the paper's tables under one protocol, in percent: row -> column, with low and high of each interval.

    Columns are pairs (column, "value" | "low" | "high" | "paper"); rows that were not run hold the paper's number
    alone, and rows that no switch of the protocol changes are left out. Raises ValueError on an unknown table or
    protocol.
    """
    lines = {}
    for key, paper in _under(part, protocol).items():
        cells = {}
        for column, heading in HEADINGS.items():
            measured = evidence.accuracy(group, key, protocol, column)
            if column in paper.published:
                cells[heading, "paper"] = paper.published[column]
            for name in ("value", "low", "high"):
                cells[heading, name] = round(100 * getattr(measured, name), 2) if measured else np.nan
        lines[key] = cells
    return pd.DataFrame.from_dict(lines, orient="index")


def _under(part: int | None, protocol: str) -> dict[str, catalogue.Row]:
    """The rows of a part that a protocol is for. Raises ValueError if there is none, or no such protocol."""
    rows = catalogue.part(part)
    found = {key: row for key, row in rows.items() if row.has(protocol)}
    for paper in (found or rows).values():
        paper.changes(protocol)
    return found


def plain(group: Group, part: int | None, protocol: str) -> str:
    """The same table as text for a terminal: measured accuracy with its interval, and the paper's number below it."""
    lines = []
    for key, paper in _under(part, protocol).items():
        runs = runs_of(group, key, protocol)
        measured = {"row": paper.label, "by": f"here, {len(runs)} seed(s)" if runs else "here: not run"}
        printed = {"row": "", "by": "the paper"}
        for column, heading in HEADINGS.items():
            cell = evidence.accuracy(group, key, protocol, column)
            measured[heading] = f"{100 * cell.value:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]" if cell else ""
            printed[heading] = f"{paper.published[column]:.2f}" if column in paper.published else ""
        lines += [measured, printed]
    return pd.DataFrame(lines).to_string(index=False)


def runs(found: Iterable[Record], *, page: str = "book", root: Path | None = None) -> str:
    """Every record, a line each, with the link to its executed notebook and what made it, as HTML."""
    body = []
    for record in found:
        cells = [
            record.protocol,
            record.budget,
            record.data["title"],
            link(record, page, root),
            record.provenance["device"],
            f"{record.seconds / 60:.1f}",
            (record.provenance["commit"] or "unknown")[:7],
        ]
        body.append(row(record.key, cells))
    heads = ["Row", "Protocol", "Budget", "Data", "Seed", "Device", "Minutes", "Commit"]
    return table(heads, body, "The committed runs. The link opens the notebook as it was executed.")


def several_versions(found: Iterable[Record]) -> str:
    """That the records were made with more than one version of a package, as Markdown; empty if they were not."""
    mixed = versions.mixed(found)
    return f"Made with more than one version of {mixed}; in brackets, how many runs." if mixed else ""


def title(row: catalogue.Row) -> str:
    """Label of a row, as HTML, with what tells it from the rows of the same label: table and training attack."""
    place = f"Table {row.paper_table}" if row.paper_table else "authors' results file"
    attack = f", trained on eps {row.train_eps:g}, step {length(row.train_step_size)}" if row.adversarial else ""
    return f'{escape(row.label)} <span class="quiet">{place}{attack}</span>'


def columns(group: Group) -> str:
    """What each column's attack is under each protocol, from the specifications in the records, as HTML."""
    body = []
    names = [(rule, column) for column in catalogue.COLUMNS if column != "clean" for rule in catalogue.PROTOCOLS]
    for rule, column in [*names, ("corrected", STRONG)]:
        spec = group[0].measurement(f"{rule}:{column}").attack
        steps = 1 if spec["method"] == "fgsm" else spec["steps"]
        step_size = spec["eps"] if spec["method"] == "fgsm" else spec["step_size"]
        reach = spec["eps"] if spec["random_start"] else min(spec["eps"], steps * step_size)
        cells = [
            rule,
            length(spec["eps"]),
            f"{steps} x {length(step_size)}",
            length(reach),
            str(spec["restarts"]),
            {"pixels": "pixels", "standardised": "standard deviations"}[spec["space"]],
            spec["statistics"],
        ]
        body.append(row(escape(HEADINGS[column]), cells))
    heads = ["Column", "Protocol", "eps", "steps", "reach", "restarts", "unit", "batch norm's statistics"]
    return table(heads, body, "The attack behind each column. Reach: how far it can move a pixel or entry at most.")


def extensions(group: Group, *, page: str = "book", root: Path | None = None) -> str:
    """The experiments beyond the paper beside the rows they extend, corrected protocol, as HTML; empty if none ran."""
    body = []
    for key, extension in catalogue.extensions().items():
        if found := runs_of(group, key, "corrected"):
            cells = []
            for column in (*catalogue.COLUMNS, STRONG):
                places = [(name, "corrected", f"corrected:{column}") for name in (key, extension.base)]
                difference = evidence.difference(group, *places)
                beside = (
                    points(difference) if difference or not runs_of(group, extension.base, "corrected") else NO_SEED
                )
                cells.append(f"{accuracy(evidence.accuracy(group, key, 'corrected', column))}<br>{beside}")
            head = f'{escape(extension.label)}<span class="interval wrap">{escape(extension.question)}</span>'
            body.append(row(head, [escape(catalogue.rows()[extension.base].label), links(found, page, root), *cells]))
    caption = (
        "Experiments beyond the paper, corrected protocol: accuracy in percent, and below it the difference to the row "
        "that is extended, in percentage points, over the seeds that both have. 95 % intervals, bold where they "
        f"exclude 0. Budget {group[0].budget} on {group[0].data['title']}."
    )
    return table(["Experiment", "Extends", "Runs", *HEADINGS.values()], body, caption) if body else ""


def beside(group: Group) -> dict[str, tuple[list[float], list[float]]]:
    """Heading of a column -> accuracies in percent of the rows of Table 1: ours, published protocol, and the paper's.

    Empty below five rows: of three, chance puts one in six in the same order.
    """
    found = evidence.rows_run(group, "published")
    if len(found) < 5:
        return {}
    return {
        heading: (
            [100 * evidence.accuracy(group, key, "published", column).value for key in found],
            [paper.published[column] for paper in found.values()],
        )
        for column, heading in catalogue.COLUMNS.items()
    }


def order(group: Group) -> str:
    """Does our published protocol put the rows of Table 1 in the paper's order? As HTML; empty below 5 rows."""
    body = []
    for heading, (ours, theirs) in beside(group).items():
        agreement = f"{rank_correlation(ours, theirs):+.2f}" if len(set(ours)) > 1 else NO_NUMBER
        spread = [f"{max(values) - min(values):.1f}" for values in (theirs, ours)]
        body.append(row(escape(heading), [agreement, f"{np.mean(np.subtract(ours, theirs)):+.1f}", *spread]))
    if not body:
        return ""
    caption = (
        f"The paper's numbers and the published protocol here, over {len(ours)} rows of Table 1. Order: Spearman's "
        "rank correlation of the rows. Gap: ours minus the paper's, on average, in percentage points. Spread: best row "
        "minus worst row."
    )
    return table(["Column", "Order", "Gap", "Spread: paper", "here"], body, caption)


def cost(group: Group) -> str:
    """What a row of Table 1 took to train and to evaluate, as HTML: the mean over its runs."""
    body = []
    for key, paper in catalogue.part(1).items():
        for protocol in catalogue.PROTOCOLS:
            if found := runs_of(group, key, protocol):
                passes = found[0].cost["passes_per_step"]
                minutes = [
                    np.mean([record.cost[name] for record in found]) / 60
                    for name in ("training_seconds", "evaluation_seconds")
                ]
                speed = np.mean([record.cost["training_images_per_second"] for record in found])
                cells = [
                    protocol,
                    f"{passes['forward']} + {passes['backward']}",
                    f"{found[0].cost['steps']:,}",
                    *(f"{value:.1f}" for value in minutes),
                    f"{speed:,.0f}",
                ]
                body.append(row(escape(paper.label), cells))
    caption = (
        "Cost of a run. Passes: forward and backward passes of one batch that a training step takes; compare rows at "
        f"equal passes before comparing their accuracy. Images: clean training images a second. "
        f"Made on {_devices(group)}."
    )
    heads = ["Row", "Protocol", "Passes", "Steps", "Training (min)", "Evaluation (min)", "Images/s"]
    return table(heads, body, caption)


def commands(group: Group) -> str:
    """The command that repeats each row, what it took, and its clean accuracy, as HTML; empty if no row was run."""
    body = []
    for key, paper in catalogue.rows().items():
        for protocol in catalogue.PROTOCOLS:
            if found := runs_of(group, key, protocol):
                minutes = np.mean([record.seconds for record in found]) / 60
                clean = evidence.accuracy(group, key, protocol, "clean")
                run = f"<code>{command(found[0])}</code>"
                body.append(row(escape(paper.label), [run, f"{minutes:.0f}", accuracy(clean)]))
    caption = (
        f"Every row that was run here. Minutes: training and evaluation together, on {_devices(group)}, beside other "
        "work. Accuracy: clean, in percent, by the row's own rule; a repetition on another machine or with another "
        "seed should fall into the interval most of the time, or near it while a row has one seed."
    )
    return table(["Row", "Command", "Minutes", "Accuracy"], body, caption) if body else ""


def full_cost(group: Group) -> str:
    """What a training of the full budget asks for, and the time that it takes at the least or at the rate seen here."""
    rates = [
        arithmetic.training(config, config.images_an_epoch(record.data["train_images"]))
        / record.cost["training_seconds"]
        for record in group
        for config in [record.as_config()]
    ]
    rate = float(np.median(rates))
    by_operations: dict[tuple[str, float], list[str]] = {}
    for budget, (key, paper) in product(catalogue.GPU_BUDGETS, catalogue.part(1).items()):
        operations = arithmetic.training(catalogue.config(key, budget=budget), CIFAR_TRAINING)
        by_operations.setdefault((budget, operations), []).append(escape(paper.label))
    body = [
        row(
            f"{budget}: {', '.join(labels)}",
            [
                f"{operations / 1e15:.1f}",
                *(duration(operations / peak) for peak in arithmetic.PEAKS.values()),
                duration(operations / rate),
            ],
        )
        for (budget, operations), labels in by_operations.items()
    ]
    caption = (
        "One training of a GPU's budget, without its evaluation. Operations: of convolutions and the linear layer, in "
        "10¹⁵. At least: at the peak rate of half precision on the device's data sheet, which no program reaches; "
        f"nobody has measured these here. At the rate here: {rate / 1e9:.0f} · 10⁹ operations a second, the median of "
        f"the {len(group)} {group[0].budget} runs on {_devices(group)}."
    )
    heads = ["Rows", "Operations", *(f"{name}, at least" for name in arithmetic.PEAKS), "At the rate here"]
    return table(heads, body, caption)


def smoke(root: Path, keys: Sequence[str] = SMOKE_ROWS) -> str:
    """The table of the machinery check, as HTML. Raises FileNotFoundError for a row without a smoke record."""
    found = {record.key: record for record in records.collect(root, budget="smoke") if record.protocol == "corrected"}
    body = []
    for key in keys:
        if key not in found:
            raise FileNotFoundError(f"no smoke record of row {key!r}: `make smoke` writes it (in seconds)")
        record = found[key]
        cells = [f"{100 * record.measurement(f'corrected:{column}').accuracy:.1f}" for column in catalogue.COLUMNS]
        cells.append(f"{record.seconds:.1f}")
        body.append(row(escape(catalogue.rows()[key].label), cells))
    record = found[keys[0]]
    caption = (
        f"Machinery check, not a result: accuracy in percent on {record.measurements[0].n} images of "
        f"{record.data['title']}, a network of width {record.config['width']} after {record.config['epochs']} epochs."
    )
    return table(["Row", *catalogue.COLUMNS.values(), "Seconds"], body, caption)


def _devices(group: Group) -> str:
    return "; ".join(sorted({f"{r.provenance['device']}, {r.provenance['threads']} thread(s)" for r in group}))


def _trained_in(runs: Group) -> str:
    """ "trained in bfloat16: " where a published row was not trained in the released code's float32 (point 19)."""
    others = sorted({record.provenance["precision"] for record in runs} - {"float32"})
    return f"trained in {', '.join(others)}: " if others and runs[0].protocol == "published" else ""


def _planned(runs: Group) -> str:
    """ "1 of 3 seeds: " while a row of Table 1 has fewer runs than it is meant to have."""
    planned = catalogue.SEEDS[runs[0].budget]
    return f"{len(runs)} of {planned} seeds: " if len(runs) < planned else ""
