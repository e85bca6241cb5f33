"""Which versions of the packages made what: a table of two is legitimate, and must be seen to be one. No torch.

A record does not become stale by a new version. Whether results change is decided by the golden test, which stands
guard over the science version. But one run is of one set of versions: a checkpoint of another set is not continued.
"""

import json
import platform
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from study.machine.folders import write_whole
from study.records import Record

PACKAGES = ("torch", "torchvision", "numpy")  # those that a record names, beside Python


def here() -> dict[str, str | None]:
    """The versions that a run would be of if it began now, as its record would name them."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def mixed(records: Iterable[Record]) -> str:
    """ "torch 2.11.0 (3), 2.12.0 (1); numpy ..." for the packages that differ; empty if all are of one set."""
    found = [record.provenance["versions"] for record in records]
    names = sorted({name for versions in found for name in versions})
    counted = {name: Counter(versions.get(name) for versions in found) for name in names}
    return "; ".join(
        f"{name} " + ", ".join(f"{value or 'unknown'} ({n})" for value, n in sorted(counts.items(), key=str))
        for name, counts in counted.items()
        if len(counts) > 1
    )


def changed(then: dict) -> str:
    """ "torch 2.11.0, now 2.12.0" for each package that is another one here than ``then``; empty if none is."""
    now = here()
    return "; ".join(
        f"{name} {then[name] or 'unknown'}, now {now[name] or 'unknown'}"
        for name in now
        if then.get(name, now[name]) != now[name]
    )


def remember(path: Path) -> None:
    """Write down what is here."""
    write_whole(path, json.dumps(here()))


def remembered(path: Path) -> dict:
    """What was written down; {} if nothing was, or nothing that can be read."""
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
