"""SIGTERM as a request: finish the step, save, and leave. Whoever works long asks now and then whether it was made."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ASKED: list[int] = []  # the signal that has asked this command to stop, once one has


class Interrupted(RuntimeError):
    """Asked to stop, the work was saved and can be continued."""

    exit_status = 143  # as a shell reports a process that SIGTERM ended


@contextmanager
def on_request() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGTERM has come since. Outside the main thread none arrives, and it never has."""
    asked = []
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    except ValueError:  # not the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
