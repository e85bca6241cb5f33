"""``python -m advlib``: run an experiment, list the catalogue, see what is done, read tables and verdicts."""

import argparse
import ast
import json
import os
import signal
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from advlib import catalogue, evidence, records
from advlib.data import DATASETS
from advlib.folders import results_folder

STATES = ("done", "missing", "stale", "damaged")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 if all went well, 1 if a run failed, 2 if the command was wrong."""
    options = _parser().parse_args(arguments)
    asked = _leave_on_sigterm()
    try:
        return options.command(options)
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, RuntimeError, KeyError) as error:
        print(f"advlib: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 143 if asked else getattr(error, "exit_status", 2)


def _leave_on_sigterm() -> list:
    """On SIGTERM ask the kernel to save and stop, and wait for it; without one, or at the second, leave at once.

    Either way by the front door: nothing partial stays. Returns what is not empty once SIGTERM has come.
    """
    asked: list = []

    def leave(*_) -> None:
        kernel = sys.modules.get("advlib.kernel")
        if asked or not (kernel and kernel.ask_to_stop()):
            sys.exit(143)
        asked.append(True)

    signal.signal(signal.SIGTERM, leave)
    return asked


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
        wait=options.wait,
    )
    record = records.read(path)
    clean = record.measurement(f"{catalogue.rule(record.protocol)}:clean")
    print(
        f"{record.where}: {state}; clean accuracy {100 * clean.accuracy:.1f} % of {clean.n:,} images of "
        f"{record.data['title']}, {record.seconds / 60:.1f} min on {record.provenance['device']}"
    )
    return 0


def list_rows(options) -> int:
    """Every row and protocol: what differs from plain training, and what it costs as a multiple of that."""
    from advlib.run import passes

    print(f"{'row':26s} {'protocol':52s} {'in the paper':12s} {'cost':4s}  what differs from plain training")
    for key, row in catalogue.rows().items():
        for protocol in _protocols(key, options.dissection):
            cost = passes(catalogue.config(key, protocol=protocol))["forward"]
            changes = ", ".join(f"{name}={value}" for name, value in _rounded(row.changes(protocol)).items())
            place = f"Table {row.paper_table}" if row.paper_table else "results file"
            print(f"{key:26s} {protocol:52s} {place:12s} x{cost:<3d}  {changes or 'nothing: the baseline'}")
    for key, extension in ({} if options.dissection else catalogue.extensions()).items():
        cost = passes(catalogue.config(key))["forward"]
        changes = ", ".join(f"{name}={value}" for name, value in _rounded(extension.fields).items())
        print(f"{key:26s} {'corrected':52s} {'extension':12s} x{cost:<3d}  {changes} on top of {extension.base}")
    print("cost: forward and backward passes of a batch in one training step, as a multiple of plain training's")
    return 0


def _protocols(key: str, dissection: bool) -> Sequence[str]:
    """The two protocols, or with ``dissection`` all those between them, of the rows that are dissected.

    An extension is of the corrected protocol alone.
    """
    from advlib.dissection import DISSECTED

    if not dissection:
        return catalogue.PROTOCOLS if key in catalogue.rows() else ("corrected",)
    return catalogue.rows()[key].dissection() if key in DISSECTED else ()


def table(options) -> int:
    """One of the paper's tables from the records: measured with intervals, the paper's numbers below."""
    from advlib import tables

    group = _group(options)
    if options.csv:
        print(tables.frame(group, options.number, options.protocol).to_csv(), end="")
        return 0
    print(tables.describe(group).replace("**", ""), f"Protocol {options.protocol}.")
    print(tables.plain(group, options.number, options.protocol))
    return 0


def claims(options) -> int:
    """What the paper claims and what the records say of it."""
    from advlib import ledger, tables
    from advlib.claims import ledger as judged

    group = _group(options)
    rulings = judged(group)
    if not evidence.of_the_paper(group):
        print("These are not the paper's data: the verdicts say whether its claims hold on others.\n", file=sys.stderr)
    if options.json:
        print(json.dumps(ledger.as_json(rulings, group), indent=1, ensure_ascii=False))
        return 0
    print(tables.describe(group).replace("**", "") + "\n")
    print(ledger.text(rulings), end="")
    return 0


def _group(options) -> evidence.Group:
    root = options.results or results_folder()
    for group in evidence.groups(root):
        if options.budget in (None, group[0].budget) and options.dataset in (None, group[0].config["dataset"]):
            return group
    asked = " ".join(filter(None, [options.budget, options.dataset])) or "budget lite or full"
    raise ValueError(f"no record of {asked} counts in {root}: `python -m advlib status --budget lite` says why")


def status(options) -> int:
    """What is done, missing, stale or damaged, for every row, protocol and seed: of all data sets that have records."""
    from advlib.execute import why_missing

    root = options.results or results_folder()
    lines = []
    for dataset, key in product(_datasets(options, root), catalogue.experiments()):
        for protocol, seed in product(_protocols(key, options.dissection), options.seeds):
            config = catalogue.config(key, protocol=protocol, budget=options.budget, seed=seed, dataset=dataset)
            where = records.run_folder(options.budget, dataset, protocol, key, seed)
            try:
                why = why_missing(root / where, config)
                state = "done" if why is None else "missing" if why == "missing" else "stale"
            except ValueError as error:
                state, why = "damaged", str(error)
            record = root / where / "record.json"
            lines.append(
                {
                    "run": where,
                    "state": state,
                    "why": None if why == "missing" else why,
                    "record": str(record) if record.is_file() else None,
                }
            )
    if options.json:
        print(json.dumps(lines, indent=1))
        return 0
    for line in lines:
        print(f"{line['state']:8s} {line['run']}" + (f"  ({line['why']})" if line["why"] else ""))
    counts = {state: sum(line["state"] == state for line in lines) for state in STATES}
    print(", ".join(f"{count} {state}" for state, count in counts.items()) + f" of {len(lines)}")
    return 0


def _datasets(options, root: Path) -> list[str]:
    """The data set that was asked for, or all that have records at the budget, or else the budget's own."""
    if options.dataset:
        return [options.dataset]
    found = {path: None for path in sorted((root / options.budget).glob("*/*/*/seed*/record.json"))}
    for path in found:
        try:
            found[path] = records.read(path).config["dataset"]
        except ValueError:  # damaged: its folder says of which data it was, unless they were named by a path
            found[path] = path.parents[3].name if path.parents[3].name in DATASETS else None
    return sorted(set(filter(None, found.values()))) or [catalogue.config("traditional", budget=options.budget).dataset]


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
    command.add_argument("--wait", action="store_true", help="if another process is at this run, wait for it")
    command.set_defaults(command=run)

    listing = commands.add_parser("list", help="every row of the paper, and what it differs in")
    listing.add_argument("--dissection", action="store_true", help="the protocols between published and corrected")
    listing.set_defaults(command=list_rows)

    paper = commands.add_parser("table", help="a table of the paper from the records")
    paper.add_argument("number", type=int, choices=(1, 2))
    paper.add_argument("--protocol", default="published", help="of training and evaluation (default: published)")
    paper.add_argument("--csv", action="store_true", help="comma-separated, with low and high of each interval")
    paper.set_defaults(command=table)

    verdicts = commands.add_parser("claims", help="the paper's claims and what the records say of them")
    verdicts.add_argument("--json", action="store_true")
    verdicts.set_defaults(command=claims)

    for subparser in (paper, verdicts):
        subparser.add_argument(
            "--budget", choices=evidence.RESULT_BUDGETS, help="default: of the runs that the book judges by"
        )
        subparser.add_argument("--dataset", help="default: of the runs that the book judges by")
        subparser.add_argument("--results", type=Path, help="the folder of records (default: the project's results)")

    state = commands.add_parser("status", help="which runs of a budget are done, missing or stale")
    state.add_argument("--seeds", type=int, nargs="+", default=[0])
    state.add_argument("--dissection", action="store_true", help="the protocols between published and corrected")
    state.add_argument("--json", action="store_true", help="also with the path of each record")
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
