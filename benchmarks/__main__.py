"""python -m benchmarks [QUESTION ...] [--rounds N]: measure, print the ratios, keep them in benchmarks/results."""

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks import crafting, curves, half, machine, tf32, training, where
from study.findings.performance import speed
from study.machine.folders import write_whole

QUESTIONS = {
    "crafting": lambda rounds: crafting.question(rounds=rounds),
    "training": lambda rounds: training.against_common_practice(rounds=rounds),
    "levers": lambda rounds: training.levers(rounds=rounds),
    "curves": lambda rounds: curves.curves(rounds=rounds),
    "threads": lambda rounds: curves.threads(rounds=rounds),
    "start-up": lambda rounds: curves.start_up(repeats=rounds),
    "where": lambda rounds: where.question(steps=rounds),
    "half": lambda rounds: half.question(),
    "tf32": lambda rounds: tf32.question(),
}
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition(": ")[2])
    parser.add_argument("questions", nargs="*", help=f"of {', '.join(QUESTIONS)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=3, help="of each race that count (default: 3)")
    options = parser.parse_args()
    if unknown := [name for name in options.questions if name not in QUESTIONS]:
        parser.error(f"unknown question {unknown[0]!r}: choose of {', '.join(QUESTIONS)}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: measure at least one")
    names = options.questions or [name for name in QUESTIONS if name != "tf32" or torch.cuda.is_available()]
    said = machine.describe(timed=not {"half", "tf32"}.issuperset(names))
    path = RESULTS / f"{machine.slug(said)}.json"
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        answers = QUESTIONS[name](options.rounds)
        found = json.loads(path.read_text()) if path.is_file() else {}
        found[name] = {"machine": said, "rows": answers}
        RESULTS.mkdir(exist_ok=True)
        write_whole(path, json.dumps(found, indent=1) + "\n")  # each answer is kept as soon as it is there
        print(speed.text(speed.Measured(path.stem, {name: found[name]})))
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
