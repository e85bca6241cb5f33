"""``python -m study``: run an experiment, see what is done, read tables and verdicts, measure networks."""

import argparse
import ast
import errno
import io
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

from study import grid, records
from study.evidence import selection
from study.findings.autoattack.judge import ATTACKS, AutoAttack, AutoAttackOnAux
from study.findings.corruptions.judge import KINDS, check_kinds
from study.findings.explorer.report import KEYS as EXPLORED
from study.findings.masking.probes import Probe
from study.machine.folders import REMEDIES, alone, project_folder, results_folder, write_whole
from study.machine.interrupt import ASKED
from study.plan import catalogue


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 if all went well, 1 if a run failed, 2 if the command was wrong."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as on stderr: what a terminal cannot show ends no command
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        return options.command(options)
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("study: ended by Ctrl-C; the same command goes on from what is saved", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ArithmeticError, ValueError, TypeError, OSError, RuntimeError, KeyError, ImportError) as error:
        print(f"study: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 128 + ASKED[0] if ASKED else getattr(error, "exit_status", 2)


def _leave(number: int, _) -> None:
    """On SIGTERM or Ctrl-C ask the kernel to save and stop, and wait for it; without one, or the second time, leave.

    Either way by the front door: nothing partial stays.
    """
    kernel = sys.modules.get("study.machine.kernel")
    if ASKED or not (kernel and kernel.ask_to_stop()):
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)
    ASKED.append(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m study", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for offer in (_run, _status, _list, _table, _claims, _verdicts, _measure, _campaign, _gate, _unpack):
        offer(commands)
    return parser


Commands = argparse._SubParsersAction  # what `add_subparsers` returns has no public name


def _command(commands: Commands, name: str, does: Callable, help: str, *groups: Callable) -> argparse.ArgumentParser:
    """A command, and the groups of options that it shares with others."""
    parser = commands.add_parser(name, help=help, description=does.__doc__)
    parser.set_defaults(command=does)
    for group in groups:
        group(parser)
    return parser


def _place(parser) -> None:
    """Where records lie."""
    parser.add_argument("--budget", default="smoke", help=", ".join(catalogue.BUDGETS))
    parser.add_argument("--dataset", help="instead of the budget's own, such as cifar10-jpeg or folder:<path>")
    parser.add_argument("--results", type=Path, help="the folder of records (default: the project's results)")


def _root(options) -> Path:
    """The folder of records. Raises ValueError if something else is there."""
    root = options.results or results_folder()
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is no folder: {REMEDIES[errno.ENOTDIR]}")
    return root


def _from(least: float, kind: type = int, most: float = 2**63 - 1) -> Callable[[str], float]:
    """The type of an option that is a number from ``least`` to ``most``."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return value

    return number


SEED = _from(0)  # what torch's generators take
COUNT = _from(1, most=10**6)
DURATION = _from(0, float, most=10**6)


def _many_runs(parser) -> None:
    """Which runs of a budget."""
    parser.add_argument("--seeds", type=SEED, nargs="+", default=[0])
    parser.add_argument("--keys", nargs="+", help="these rows only")
    parser.add_argument("--protocols", nargs="+", help="these protocols only")
    parser.add_argument("--dissection", action="store_true", help="the steps between published and corrected")


def _judged(parser) -> None:
    """Which results are judged."""
    default = "default: of the runs that the book judges by"
    parser.add_argument("--budget", choices=selection.RESULT_BUDGETS, help=default)
    parser.add_argument("--dataset", help=default)
    parser.add_argument("--results", type=Path, help="the folder of records (default: the project's results)")


# ---- one run, and the grid of all


def _run(commands: Commands) -> None:
    command = _command(commands, "run", run, "execute one experiment by papermill, unless it is done", _place)
    command.add_argument("key", help="a row of the paper; `list` prints them")
    command.add_argument(
        "--protocol", default="corrected", help="published, corrected, or a step between: published-space"
    )
    command.add_argument("--seed", type=SEED, default=0)
    command.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the config"
    )
    command.add_argument(
        "--nproc",
        type=int,
        metavar="N",
        help="train in N processes on this machine, each on a GPU of its own if there are any (default: $ADVLIB_NPROC, "
        "else 1); the same run up to rounding",
    )
    command.add_argument("--force", action="store_true", help="run again even if it is done")
    command.add_argument("--wait", action="store_true", help="if another process is at this run, wait for it")


def run(options) -> int:
    """Make sure that one run is there, and say what it found."""
    from study.grid.execute import execute

    overrides = dict(_assignment(text) for text in options.set)
    if overrides and not options.results:
        raise ValueError("--set makes another experiment than the catalogue's: give it a --results folder of its own")
    if options.budget in catalogue.GPU_BUDGETS:
        _say_if_it_takes_days(options, overrides)
    path, state = execute(
        options.key,
        protocol=options.protocol,
        budget=options.budget,
        seed=options.seed,
        dataset=options.dataset,
        overrides=overrides,
        results=_root(options),
        force=options.force,
        nproc=options.nproc,
        wait=options.wait,
    )
    record = records.read(path)
    clean = record.measurement(f"{catalogue.rule(record.protocol)}:clean")
    print(
        f"{record.where}: {state}; clean accuracy {100 * clean.accuracy:.1f} % of {clean.n:,} images of "
        f"{record.data['title']}, {record.seconds / 60:.1f} min on {record.provenance['device']}"
    )
    return 0


def _say_if_it_takes_days(options, overrides: dict) -> None:
    """Without a GPU, a run of a GPU's budget begins with how long it will take: a step of its training is timed."""
    if shutil.which("nvidia-smi"):  # spares a GPU's runs, which follow each other, an import of torch
        return
    import torch

    from study.grid.execute import why_missing

    chosen = {"protocol": options.protocol, "budget": options.budget, "seed": options.seed, "dataset": options.dataset}
    config = catalogue.config(options.key, **chosen, **overrides)
    where = records.run_folder(options.budget, config.dataset, options.protocol, options.key, options.seed)
    if torch.cuda.is_available() or not (options.force or why_missing(_root(options) / where, config)):
        return
    from study.grid.gate import Pace
    from study.plan.catalogue import CIFAR_TRAINING

    pace = Pace(config.change(batch_size=16), torch.device("cpu"))
    pace(0)  # the first step is slower than all others
    images, seconds = pace(0)
    hours = seconds / images * config.epochs * (config.train_size or CIFAR_TRAINING) / 3600
    print(
        f"study: budget {options.budget} is for a GPU. On this CPU the training alone takes about {hours:.0f} hours, "
        f"at the {images / seconds:.1f} images a second that a step has just shown. It goes on where it was ended; "
        "--budget lite is for a CPU.",
        file=sys.stderr,
    )


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: write FIELD=VALUE, such as --set epochs=2")
    if name in ("seed", "dataset"):  # they name the run, and its folder
        raise ValueError(f"--set {text}: write --{name} {value}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as float32


def _status(commands: Commands) -> None:
    command = _command(
        commands, "status", status, "which runs of a budget are done, missing or stale", _many_runs, _place
    )
    command.add_argument("--watch", type=COUNT, nargs="?", const=10, metavar="SECONDS", help="again and again")
    command.add_argument(
        "--needs", type=COUNT, metavar="JOBS", help="fail if memory or disk are short for so many at once"
    )
    command.add_argument("--commands", action="store_true", help="a command for each run that is not done, and no more")


def status(options) -> int:
    """What is done, running, failed, missing, stale or damaged, what it took, and what the rest will take."""
    while True:
        lines = _as_text(options)
        if not options.watch:
            print(lines)
            return 0
        print(f"\x1b[2J\x1b[H{lines}\n\nevery {options.watch} s; Ctrl-C ends this and nothing else", flush=True)
        try:
            time.sleep(options.watch)
        except KeyboardInterrupt:
            return 0


def _as_text(options) -> str:
    root = _root(options)
    states = [grid.state(run, root) for run in _runs(options, root)]
    if options.needs:
        grid.needs(states, options.needs).refuse_if_short(root)
    if options.commands:
        return "\n".join(_shell_line(found.run, options.results) for found in states if found.state != "done")
    lines = [f"{found.state:8s} {found.run.where}" + (f"  ({found.why})" if found.why else "") for found in states]
    spent, left = grid.hours(states)
    rest = "nobody knows how long the others take" if left is None else f"{left:.1f} hours left, one after the other"
    lines += [f"foreign  {why}" for why in grid.strays(root, options.budget, states)]
    lines += grid.versions_of(states).splitlines()
    lines.append(f"{grid.summary(states)}; {spent:.1f} hours spent, {rest}")
    if options.needs:
        asked = grid.needs(states, options.needs)
        disk = asked.disk + asked.scratch
        lines.append(
            f"{options.needs} at a time: {asked.memory:.1f} GB of memory, {disk:.2f} GB on disk; they are there"
        )
    return "\n".join(lines)


def _runs(options, root: Path) -> list[grid.Run]:
    chosen = {"keys": options.keys, "protocols": options.protocols, "dissection": options.dissection}
    return [
        run
        for dataset in ([options.dataset] if options.dataset else grid.datasets(options.budget, root))
        for run in grid.runs(options.budget, dict.fromkeys(options.seeds), dataset=dataset, **chosen)
    ]


def _shell_line(run: grid.Run, results: Path | None) -> str:
    """The line for a shell that makes a run, or waits for whoever is at it."""
    place = ["--results", str(results)] if results else []
    return shlex.join([sys.executable, "-m", "study", "run", *run.arguments, *place, "--wait"])


def _list(commands: Commands) -> None:
    command = _command(commands, "list", list_rows, "every row of the paper, and what it differs in")
    command.add_argument("--dissection", action="store_true", help="the protocols between published and corrected")


def list_rows(options) -> int:
    """Every row and protocol: what differs from plain training, and what it costs as a multiple of that."""
    from study.plan.arithmetic import passes

    print(f"{'row':26s} {'protocol':52s} {'in the paper':12s} {'cost':4s}  what differs from plain training")
    for key, row in catalogue.rows().items():
        for protocol in grid.protocols_of(key, options.dissection):
            cost = passes(catalogue.config(key, protocol=protocol, budget="lite"))["forward"]
            changes = ", ".join(f"{name}={value}" for name, value in _rounded(row.changes(protocol)).items())
            place = f"Table {row.paper_table}" if row.paper_table else "results file"
            print(f"{key:26s} {protocol:52s} {place:12s} x{cost:<3d}  {changes or 'nothing: the baseline'}")
    for key, extension in ({} if options.dissection else catalogue.extensions()).items():
        cost = passes(catalogue.config(key))["forward"]
        changes = ", ".join(f"{name}={value}" for name, value in _rounded(extension.fields).items())
        if extension.epochs_times != 1:
            changes += f"{', ' if changes else ''}{extension.epochs_times} times the epochs"
        print(f"{key:26s} {'corrected':52s} {'extension':12s} x{cost:<3d}  {changes} on top of {extension.base}")
    print("cost: forward and backward passes of a batch in one training step, as a multiple of plain training's")
    for budget in catalogue.BUDGETS:
        config = catalogue.config("traditional", budget=budget)
        size = f"width {config.width}, {config.epochs} epochs of {config.train_size or 'all'} training images"
        print(f"budget {budget:10s}{size} of {config.dataset}{', for a GPU' * (budget in catalogue.GPU_BUDGETS)}")
    return 0


def _rounded(changes: dict) -> dict:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in changes.items()}


# ---- what the records say


def _table(commands: Commands) -> None:
    command = _command(commands, "table", table, "a table of the paper from the records", _judged)
    command.add_argument("number", type=int, choices=(1, 2))
    command.add_argument("--protocol", default="published", help="of training and evaluation (default: published)")
    command.add_argument("--csv", action="store_true", help="comma-separated, with low and high of each interval")


def table(options) -> int:
    """One of the paper's tables from the records: measured with intervals, the paper's numbers below."""
    from study.findings.numbers import results
    from study.presentation import sentences

    group = _group(options)
    if options.csv:
        print(results.frame(group, options.number, options.protocol).to_csv(), end="")
        return 0
    print(sentences.describe(group), f"Protocol {options.protocol}.")
    print(results.plain(group, options.number, options.protocol))
    return 0


def _group(options) -> selection.Group:
    root = _root(options)
    for group in selection.groups(root):
        if options.budget in (None, group[0].budget) and options.dataset in (None, group[0].config["dataset"]):
            return group
    asked = " ".join(filter(None, [options.budget, options.dataset])) or f"budget {', '.join(selection.RESULT_BUDGETS)}"
    raise ValueError(f"no record of {asked} counts in {root}: `python -m study status --budget lite` says why")


def _claims(commands: Commands) -> None:
    command = _command(commands, "claims", claims, "the paper's claims and what the records say of them", _judged)
    command.add_argument("--json", action="store_true")


def claims(options) -> int:
    """What the paper claims and what the records say of it."""
    from study.findings.claims import judge, report
    from study.findings.masking import probes

    group, evidence = _group(options), judge.evidence(_root(options))
    if options.budget or options.dataset or not selection.of_the_paper(group):
        evidence = judge.Evidence([group], probes.probes(_root(options), group))
    if not selection.of_the_paper(group):
        print("These are not the paper's data: the verdicts say whether its claims hold on others.\n", file=sys.stderr)
    return _show(options, evidence.groups, report.as_json(evidence.rulings), report.text(evidence.rulings))


def _show(options, groups: list[selection.Group], plain: list, text: str) -> int:
    """What was judged: for a program, or for a reader with what it was judged from."""
    from study.presentation import sentences

    if options.json:
        print(json.dumps(plain, indent=1))
    else:
        print("\n".join(sentences.describe(group) for group in groups), text, sep="\n\n", end="")
    return 0


def _verdicts(commands: Commands) -> None:
    help = "which rows show a sign of masking, and which checks they fail"
    _command(commands, "verdicts", verdicts, help, _judged).add_argument("--json", action="store_true")


def verdicts(options) -> int:
    """Which rows show a sign of masking: for each row and protocol a verdict, and the checks that fail."""
    from study.findings.masking import judge, probes, report

    group = _group(options)
    judged = judge.verdicts(group, probes.probes(_root(options), group))
    return _show(options, [group], report.as_json(judged, group), report.text(judged))


# ---- what only the networks themselves can tell


def _measure(commands: Commands) -> None:
    kinds = commands.add_parser(
        "measure", help="ask trained networks what no record says; it is kept beside their records"
    ).add_subparsers(required=True, metavar="kind", dest="kind")

    def kind(name: str, help: str, keys: str = "+") -> argparse.ArgumentParser:
        command = _command(kinds, name, measure, help, _place)
        command.add_argument("keys", nargs=keys, metavar="key", help="rows of the paper that have been run")
        command.add_argument("--protocol", default="corrected")
        command.add_argument("--seed", type=SEED, default=0)
        command.add_argument(
            "--weights", type=Path, help="of that run, or a folder of KEY.safetensors (default: the project's models)"
        )
        return command

    by_images = [
        kind("masking", "signs of masking that need the network: minutes on a CPU"),
        attacking := kind("autoattack", "the four attacks of AutoAttack: minutes to an hour each"),
        on_aux := kind("autoattack-aux", "the same on the branch of AdvProp that is not used afterwards"),
        spoiling := kind("corruptions", "accuracy on images spoilt by noise, blur, weather: minutes on a CPU"),
        kind("branches", "the four networks inside one of AdvProp's, attacked: minutes on a CPU"),
        kind("columns", "the paper's columns on every test image, more than the record has: minutes on a CPU"),
        kind("overfitting", "a finished run trained once more, and attacked after every epoch"),
    ]
    kind("transfer", "images made on each network shown to all others (default: all that were probed)", "*")
    kind("explorer", "the data of the book's explorer page (default: the networks that it shows)", "*")
    for command in by_images:
        command.add_argument("--images", type=int, help="the first so many of the test set (default: 200 to all)")
        command.add_argument("--anew", action="store_true", help="do not go on from what is there")
    for command in (attacking, on_aux):
        command.add_argument("--until", choices=ATTACKS, default=ATTACKS[-1], help="the last attack to run")
    spoiling.add_argument("--kinds", nargs="+", default=KINDS, help="these corruptions only, such as fog")


def measure(options) -> int:
    """Measure something on networks that were trained, and leave what is found beside their records."""
    root = _root(options)
    with ExitStack() as options.held:
        for line in _lines(options, root):
            print(line, flush=True)
    return 0


def _lines(options, root: Path) -> Iterator[str]:
    kind, how = options.kind, {}
    if kind == "transfer":
        if extensions := [key for key in options.keys if key in catalogue.extensions()]:
            raise ValueError(
                f"transfer is between rows of the paper, and these are experiments of our own: {extensions}"
            )
        options.keys = options.keys or _probed(options, root)
    elif kind == "explorer":
        options.keys = options.keys or EXPLORED
    else:
        how = {"images": options.images, "anew": options.anew}
    if kind == "corruptions":
        how["kinds"] = check_kinds(options.kinds)  # before anything is read
    if one := {one.KIND: one for one in (AutoAttack, AutoAttackOnAux)}.get(kind):
        how |= {"until": options.until, "kind": one}
    place = {"transfer": "masking.transfer", AutoAttackOnAux.KIND: "autoattack.measure"}.get(kind, f"{kind}.measure")
    return import_module(f"study.findings.{place}").measure(_networks(options, root), root, **how)


def _probed(options, root: Path) -> list[str]:
    """The rows that were probed. Raises ValueError, with the remedy, unless there are two for images to go between."""
    found = [key for key in catalogue.rows() if (root / _cell(options, key).where / Probe.FILE).is_file()]
    if len(found) < 2:
        first = next(key for key in catalogue.rows() if key not in found)
        command = shlex.join(["python", "-m", "study", "measure", Probe.KIND, *_cell(options, first).arguments])
        raise ValueError(f"transfer is between rows that were probed, and there are {len(found)}: first {command}")
    return found


def _cell(options, key: str) -> grid.Run:
    """The run of a row that is asked for."""
    dataset = options.dataset or catalogue.config(key, budget=options.budget).dataset
    return grid.Run(key, options.protocol, options.budget, dataset, options.seed)


def _networks(options, root: Path) -> list:
    """The networks of the rows that are asked for."""
    from study.experiment.network import Network
    from study.records.beside import refuse_unpublished

    weights, keys = options.weights or (project_folder() or Path()) / "models", dict.fromkeys(options.keys)
    if weights.is_file() and len(keys) > 1:
        raise ValueError(f"--weights {weights} is one file, and {len(keys)} rows are asked for: name one row")
    found = [
        Network(_record(options, root, key), weights if weights.is_file() else weights / f"{key}.safetensors")
        for key in keys
    ]
    for network in found:  # two at once would each write a file without what the other has measured
        where = network.record.where
        options.held.enter_context(alone(root / where, what=f"measuring the network of {where}"))
    if options.kind != "overfitting":  # which trains them itself
        for network in found:
            network.refuse_missing()
        for network in found:
            network.refuse_others()
            refuse_unpublished(root, network.record, network.digest)
    return found


def _record(options, root: Path, key: str) -> records.Record:
    """The record of a row that is asked for. Raises ValueError, with the remedy, where there is none."""
    run = _cell(options, key)
    path = root / run.where / "record.json"
    if not path.exists():
        raise ValueError(f"{path} is not there: run it first: {_shell_line(run, options.results)}")
    return records.read(path)


# ---- a borrowed machine


def _campaign(commands: Commands) -> None:
    help = "on a borrowed machine: run what tells most until the time is over"
    command = _command(commands, "campaign", campaign, help, _many_runs, _place)
    command.add_argument("--minutes", type=DURATION, required=True, help="that the machine is ours, saving included")
    command.add_argument("--out", type=Path, required=True, help="the folder for the packed parts")
    command.add_argument("--start-from", type=Path, metavar="DIR", help="parts of an earlier campaign to go on from")
    command.add_argument("--jobs", type=COUNT, help="runs at a time (default: as many as the gate finds worth it)")
    command.add_argument(
        "--gate-seconds",
        type=DURATION,
        default=90,
        help="that the gate may take; 0 leaves it out (default: 90)",
    )
    command.add_argument(
        "--carry", action="store_true", help="begin also what cannot finish, and bring checkpoints instead of networks"
    )


def campaign(options) -> int:
    """Make what tells most of what is missing until the time is over, and pack each record as it is finished."""
    from study.grid.campaign import LOG, campaign, data_at_hand
    from study.grid.parts import parts_of

    options.dataset = options.dataset or data_at_hand(options.budget)
    root = _root(options)
    try:
        campaign(
            _runs(options, root),
            root,
            minutes=options.minutes,
            out=options.out,
            jobs=options.jobs,
            gate_seconds=options.gate_seconds,
            start_from=options.start_from,
            carry=options.carry,
        )
    finally:
        if options.out.is_dir():
            for part in [*parts_of(options.out), *options.out.glob(LOG)]:
                print(f"{part}  {part.stat().st_size / 2**20:.1f} MiB")
    return 0


def _gate(commands: Commands) -> None:
    command = _command(commands, "gate", gate, "does this machine compute what it should, and how fast?")
    command.add_argument("--budget", default="smoke", help=", ".join(catalogue.BUDGETS))
    command.add_argument("--seconds", type=DURATION, default=90, help="that it may take, about (default: 90)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    command.add_argument("--log", type=Path, metavar="FILE", help="add what is said to it")


def gate(options) -> int:
    """Whether this machine is fit for a campaign, and how many runs at a time it should make."""
    from study.grid.gate import gate as look

    def note(line: str) -> None:
        if options.log:
            with open(options.log, "a") as file:
                file.write(line + "\n")

    def say(line: str) -> None:
        print(line, flush=True)
        note(line)

    try:
        found = look(options.budget, seconds=options.seconds, say=say)
    except Exception as error:
        note(str(error))
        raise
    if options.json:
        write_whole(options.json, json.dumps(found, indent=1) + "\n")
    return 0


def _unpack(commands: Commands) -> None:
    command = _command(commands, "unpack", unpack, "put what a campaign brought back in its places")
    command.add_argument("folder", type=Path, help="with the parts")
    command.add_argument("--results", type=Path, help="the folder of records (default: the project's results)")


def unpack(options) -> int:
    """Put what a campaign brought back in its places."""
    from study.grid.parts import unpack as put_in_place

    put = put_in_place(options.folder, _root(options))
    for path in put:
        print(path)
    print(f"{len(put)} files put in their places; what was there already has stayed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
