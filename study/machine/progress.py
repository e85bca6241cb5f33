"""One progress bar for all long work: on a terminal only, so that logs, notebooks and books stay clean."""

import os
import sys

from tqdm import tqdm

TERMINAL = "ADVLIB_TERMINAL"  # set by ``study run``: the terminal that a notebook's kernel, which has none, may draw on


def progress(iterable=None, **options) -> tqdm:
    """A tqdm bar on the terminal, if there is one; silent otherwise."""
    options.setdefault("dynamic_ncols", True)
    try:
        terminal = open(os.environ[TERMINAL], "w")  # noqa: SIM115 - open for as long as the bar
    except (KeyError, OSError):
        return tqdm(iterable, disable=None, **options)
    return tqdm(iterable, file=terminal, **options)


def terminal_name() -> str | None:
    """The path of the terminal that stderr is connected to, or None."""
    try:
        return os.ttyname(sys.stderr.fileno())
    except (OSError, ValueError):
        return None
