"""What several pages say of the records that they are made from: their size and data, and which are left out. No torch.

A page shows what there is and says what is missing. What has to be there and is not raises, and so fails the book's
build.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from study import records
from study.evidence import selection
from study.evidence.selection import Group
from study.plan import catalogue
from study.presentation.markup import counts, element, length, span, together
from study.records import Record, versions
from study.records.literal import code, literal

YOUNGER = (
    "These rules of judgement were written after the first numbers were known, and all verdicts were then reached "
    "again by them. Two were made on 27 November 2026, after the first runs of the paper's network: an attack of 0.5 "
    "in pixels may leave two points more than a guess, and networks are compared only where one is better than "
    "guessing by a point. Without the first, *Adversarial* under the `corrected` protocol counted as masked there, and "
    "what is compared with it had no evidence. Without the second, FGSM 0.5 counted: *Adversarial training is more "
    "robust than plain training* was not reproduced under that protocol, and *AdvProp is less robust than adversarial "
    "training* could not be decided. On 28 November, after the same runs, three were added: an effect of more than "
    "twice the paper's is called *larger*, not reproduced; how much trainings differ is learnt from the paper's "
    "methods alone, and no longer from the same method in three arithmetics; and a sentence of this book holds by the "
    "largest size at which its networks were trained, or not at all. Before the first of these, what is *larger* now "
    "was *reproduced*. Before the second, *Adversarial training is more robust than plain training* was *smaller* "
    "under the `published` protocol."
)


def status(root: Path) -> str:
    """What a page says in the place of results while the paper's data have none, as Markdown."""
    if found := selection.groups(root):
        return (
            f"**There is no result on the paper's data yet**, so the paper is not judged. Runs on other data are here: "
            f"{named(found)}; [the numbers](numbers.html) have their numbers."
        )
    if stale := selection.stale(root):
        return f"**There is no result yet.** {len(stale)} recorded runs are stale: today the code makes other ones."
    smoke = len(records.collect(root, budget="smoke"))
    return (
        "**There is no result yet.** No run at budget lite, brief or full has been recorded here; the "
        f"{smoke} smoke {'run' if smoke == 1 else 'runs'} that this book was built with show that the machinery works, "
        "and nothing else. A first result takes minutes: `python -m study run advprop --budget lite --seed 0`."
    )


def caution(*groups: Group) -> Markup:
    """What a reader must know before the first number, as HTML: of which size and data the results are."""
    kind, title, said = "note", "The results", " ".join(map(describe, groups))
    if any(group[0].budget != "full" for group in groups):
        full, kind = catalogue.config("traditional"), "warning"
        smaller = any(group[0].config["width"] < full.width for group in groups)
        title = "A small setting" if smaller else "A short training"
        said += (
            " Such runs can show large effects. They cannot reach the paper's numbers: its networks "
            f"{f'have width {full.width} and ' if smaller else ''}are trained on all images for {full.epochs} epochs."
        )
    head = element("p", title, class_="admonition-title")
    return element("div", head, element("p", said), class_=f"admonition {kind}")


def describe(group: Group) -> str:
    """Size, data and seeds of a group, as the sentence that stands beside its numbers."""
    first = group[0]
    seeds = selection.seeds_a_row(group)
    columns = {f"{rule}:{column}" for rule in catalogue.PROTOCOLS for column in catalogue.COLUMNS}
    tested = sorted(_tested(group, columns))
    trained = sorted({record.data["train_images"] for record in group})
    return (
        f"{first.data['title']}, budget {first.budget}: width {first.config['width']}, "
        f"{first.config['epochs']} epochs, {counts(trained)} training images, {counts(tested)} test images, "
        f"{counts(seeds)} {'training' if seeds == [1] else 'trainings'} of each method."
    )


def _tested(group: Group, names: Collection[str]) -> set[int]:
    """On how many images the rows were tested: of each measurement, what all seeds of the row have."""
    fewest: dict[tuple, int] = {}
    for record in group:
        for measurement in record.measured:
            if measurement.name in names:
                place = record.key, record.protocol, measurement.name
                fewest[place] = min(measurement.n, fewest.get(place, measurement.n))
    return set(fewest.values())


def several_versions(found: Iterable[Record]) -> str:
    """That the records were made with more than one version of a package, as Markdown; empty if they were not."""
    mixed = versions.mixed(found)
    return f"Made with more than one version of {literal(mixed)}; in brackets, how many runs." if mixed else ""


def left_out(root: Path) -> str:
    """How many records no longer count, as a sentence of Markdown; empty if all of them count."""
    stale = [record for record, _ in selection.stale(root)]
    if not stale:
        return ""
    seeds = " ".join(map(str, sorted({record.seed for record in stale})))
    budgets = sorted({record.budget for record in stale})
    asked = [code(f"python -m study status --budget {name} --seeds {seeds}") for name in budgets]
    return (
        f"Left out, because the code would make them otherwise today: {kinds_of(stale)}. {' and '.join(asked)} says "
        "why, of each (`--dissection`: of those in between)."
    )


def kinds_of(found: Sequence[Record]) -> str:
    """How many runs are of which protocol: "18 published, 36 corrected, 20 in between"."""
    kinds = dict.fromkeys((*catalogue.PROTOCOLS, "in between"), 0)
    for record in found:
        kinds[record.protocol if record.protocol in kinds else "in between"] += 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def named(groups: Sequence[Group]) -> str:
    """Groups of records by budget, data and number, as Markdown: "full on CIFAR-10 (36 runs)"."""
    nouns = {True: "run", False: "runs"}
    firsts = [(group[0], f"{len(group)} {nouns[len(group) == 1]}") for group in groups]
    return ", ".join(f"{first.budget} on {literal(first.data['title'])} ({runs})" for first, runs in firsts)


def devices_of(group: Group) -> str:
    """The devices that the records were made on, and with how many threads."""
    return "; ".join(sorted({f"{r.provenance['device']}, {r.provenance['threads']} thread(s)" for r in group}))


def title(row: catalogue.Row) -> Markup:
    """Label of a row, as HTML, with what tells it from the rows of the same label: table and training attack."""
    place = f"Table {row.paper_table}" if row.paper_table else "authors' results file"
    attack = f", trained on eps {row.train_eps:g}, step {length(row.train_step_size)}" if row.adversarial else ""
    return together([row.label, span("quiet", f"{place}{attack}")], " ")
