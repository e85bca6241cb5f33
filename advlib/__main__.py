"""``python -m advlib``: run an experiment, list the catalogue, see what is done."""

import argparse
import ast
import json
import signal
import sys
from itertools import product
from pathlib import Path

from advlib import catalogue, records
from advlib.data import DATASETS
from advlib.folders import results_folder

STATES = ("done", "missing", "stale", "damaged")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 if all went well, 1 if a run failed, 2 if the command was wrong."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave by the front door: nothing partial stays
    try:
        return options.command(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"advlib: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 2)


def run(options) -> int:
    """Make sure that one run is there, and say what it found."""
    from advlib.execute import execute

    overrides = dict(_assignment(text) for text in options.set)
    if overrides and not options.results:
        raise ValueError("--set makes another experiment than the catalogue's: give it a --results folder of its own")
    path, state = execute(
        options.key,
        protocol=options.protocol,
        budget=options.budget,
        seed=options.seed,
        dataset=options.dataset,
        overrides=overrides,
        results=options.results or results_folder(),
        force=options.force,
    )
    record = records.read(path)
    minutes = (record.cost["training_seconds"] + record.cost["evaluation_seconds"]) / 60
    clean = record.measurement(f"{catalogue.rule(record.protocol)}:clean")
    print(
        f"{record.where}: {state}; clean accuracy {100 * clean.accuracy:.1f} % of {clean.n:,} images of "
        f"{record.data['title']}, {minutes:.1f} min on {record.provenance['device']}"
    )
    return 0


def list_rows(options) -> int:
    """Every row under both protocols: what differs from plain training, and passes a training step takes."""
    from advlib.run import passes

    for key, row in catalogue.rows().items():
        for protocol in catalogue.PROTOCOLS:
            config = catalogue.config(key, protocol=protocol)
            changes = ", ".join(f"{name}={value}" for name, value in _rounded(row.changes(protocol)).items())
            place = f"Table {row.paper_table}" if row.paper_table else "results file"
            print(
                f"{key:26s} {protocol:9s} {place:12s} {passes(config)['forward']} passes  {changes or 'the baseline'}"
            )
    return 0


def status(options) -> int:
    """What is done, missing, stale or damaged, for every row, protocol and seed: of all data sets that have records."""
    from advlib.execute import why_missing

    root = options.results or results_folder()
    own = catalogue.config("traditional", budget=options.budget).dataset
    found = [folder.name for folder in sorted((root / options.budget).glob("*")) if folder.name in DATASETS]
    lines = []
    for dataset, key in product([options.dataset] if options.dataset else found or [own], catalogue.rows()):
        for protocol, seed in product(catalogue.PROTOCOLS, options.seeds):
            config = catalogue.config(key, protocol=protocol, budget=options.budget, seed=seed, dataset=dataset)
            where = records.run_folder(options.budget, dataset, protocol, key, seed)
            try:
                why = why_missing(root / where, config)
                state = "done" if why is None else "missing" if why == "missing" else "stale"
            except ValueError as error:
                state, why = "damaged", str(error)
            lines.append({"run": where, "state": state, "why": None if why == "missing" else why})
    if options.json:
        print(json.dumps(lines, indent=1))
        return 0
    for line in lines:
        print(f"{line['state']:8s} {line['run']}" + (f"  ({line['why']})" if line["why"] else ""))
    counts = {state: sum(line["state"] == state for line in lines) for state in STATES}
    print(", ".join(f"{count} {state}" for state, count in counts.items()) + f" of {len(lines)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m advlib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("run", help="execute one experiment by papermill, unless it is done")
    command.add_argument("key", help="a row of the paper; `list` prints them")
    command.add_argument(
        "--protocol", default="corrected", help="published, corrected, or a step between: published-space"
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the config"
    )
    command.add_argument("--force", action="store_true", help="run again even if it is done")
    command.set_defaults(command=run)

    listing = commands.add_parser("list", help="every row of the paper, and what it differs in")
    listing.set_defaults(command=list_rows)

    state = commands.add_parser("status", help="which runs of a budget are done, missing or stale")
    state.add_argument("--seeds", type=int, nargs="+", default=[0])
    state.add_argument("--json", action="store_true")
    state.set_defaults(command=status)

    for subparser in (command, state):
        subparser.add_argument("--budget", default="smoke", help=", ".join(catalogue.BUDGETS))
        subparser.add_argument("--dataset", help="instead of the budget's own, such as cifar10-jpeg or folder:<path>")
        subparser.add_argument("--results", type=Path, help="the folder of records (default: the project's results)")
    return parser


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: write FIELD=VALUE, such as --set epochs=2")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as float32


def _rounded(changes: dict) -> dict:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in changes.items()}


if __name__ == "__main__":
    sys.exit(main())
