"""The passport of a run: everything its record knows about how it was made, at the top of its page. No torch."""

from html import escape
from pathlib import Path

from study.plan import catalogue
from study.records import Record
from study.records.literal import literal, one_line

CELL = "passport"  # id of the notebook cell that holds it


def markdown(record: Record) -> str:
    """The passport as Markdown: what it is a run of, what made it, and the command that repeats it."""
    row, provenance = catalogue.experiments()[record.key], record.provenance
    cost, config = record.cost, record.config
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    commit = provenance["commit"] or "unknown"
    state = ", with uncommitted changes" if provenance["dirty"] else ""
    travelled = ", its checkpoint carried from another machine in half precision" if provenance.get("halved") else ""
    processes = provenance.get("processes")
    together = f", by {processes} processes" if processes else ""
    passes = cost["passes_per_step"]
    lines = {
        "row": f"{row.label} ({record.key}), {_place(row)}",
        "protocol": record.protocol,
        "budget": f"{record.budget}, seed {record.seed}",
        "data": f"{record.data['title']}, {record.data['checksum'][:19]}: {record.data['train_images']:,} training "
        f"and {record.data['test_images']:,} test images",
        "network": f"ResNet-18 of width {config['width']}, {config['epochs']} epochs, "
        f"batches of {config['batch_size']}",
        "training": f"{cost['training_seconds'] / 60:.1f} min, {cost['steps']:,} steps of {passes['forward']} forward "
        f"and {passes['backward']} backward passes, {cost['training_images_per_second']:.0f} images/s",
        "evaluation": f"{cost['evaluation_seconds'] / 60:.1f} min, {len(record.measurements)} attacks",
        "device": f"{provenance['device']}, {provenance['threads']} thread(s), training in {provenance['precision']}"
        f"{together}{travelled}",
        "code": f"commit {commit[:12]}{state}, science version {record.science_version}",
        "versions": versions,
        "started": provenance["started"].replace("T", " "),
    }
    table = "\n".join(f"| {name} | {literal(value)} |" for name, value in lines.items())
    fields = "".join(f"<tr><td>{_code(name)}</td><td>{_code(value)}</td></tr>" for name, value in config.items())
    return (
        f"| run | {literal(record.where)} |\n|---|---|\n{table}\n\n"
        f"To repeat it:\n\n```bash\n{one_line(command(record))}\n```\n\n"
        f"<details><summary>Every field of its config</summary><table>{fields}</table></details>"
    )


def command(record: Record) -> str:
    """The command that makes this run."""
    processes = record.provenance.get("processes")
    return f"python -m study run {record.key} {record.flags}" + (f" --nproc {processes}" if processes else "")


def stamp(notebook: Path, record: Record) -> None:
    """Put the passport below the title of an executed notebook, in the place of an older one."""
    import nbformat

    contents = nbformat.read(notebook, as_version=4)
    cell = nbformat.v4.new_markdown_cell(markdown(record), id=CELL)
    others = [old for old in contents.cells if old.get("id") != CELL]
    contents.cells = [*others[:1], cell, *others[1:]]
    nbformat.write(contents, notebook)


def _code(value: object) -> str:
    """As HTML, in which no empty line may stand: Markdown would begin again."""
    return f"<code>{escape(one_line(value))}</code>"


def _place(row: catalogue.Row | catalogue.Extension) -> str:
    if isinstance(row, catalogue.Extension):
        return f"an extension of the row {row.base}"
    return f"Table {row.paper_table} of the paper" if row.paper_table else "a row of the authors' results file only"
