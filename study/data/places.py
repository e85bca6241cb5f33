"""Where archives are looked for and where decoded images are kept."""

from __future__ import annotations

import os
from pathlib import Path

_HOME = "~/.cache/advlib"


def checkout() -> Path | None:
    """The folder of the project when the package runs from a checkout, else None."""
    folder = Path(__file__).resolve().parents[2]
    return folder if any((folder / mark).is_file() for mark in ("pyproject.toml", "_config.yml")) else None


def search_folders() -> tuple[Path, ...]:
    """Folders that may hold an archive, in the order in which they are tried."""
    project = checkout() or Path.cwd()
    standard = [project / "data", project.parent / "shared" / "data", Path(_HOME).expanduser()]
    return tuple(dict.fromkeys(filter(None, [_from_environment("ADVLIB_DATA"), *standard])))


def own(path: Path) -> Path:
    """Where a user's own images are: a path that is not here is looked for where archives are.

    So a record that names a folder without its place finds it again.
    """
    places = [folder / path.expanduser() for folder in (Path(), *search_folders())]
    return next((place for place in places if place.exists()), places[0])


def download_folder() -> Path:
    """The folder that receives downloads: `$ADVLIB_DATA`, else the checkout's data/, else a user folder."""
    project = checkout()
    standard = project / "data" if project else Path(_HOME).expanduser()
    return _from_environment("ADVLIB_DATA") or standard


def cache_folder() -> Path:
    """The folder of decoded images: `$ADVLIB_CACHE`, else the checkout's data/cache, else a user folder."""
    project = checkout()
    standard = project / "data" / "cache" if project else Path(_HOME).expanduser()
    return _from_environment("ADVLIB_CACHE") or standard


def mirrors() -> tuple[str, ...]:
    """The addresses in `$ADVLIB_MIRROR`, separated by spaces, each a folder of archives."""
    return tuple(os.environ.get("ADVLIB_MIRROR", "").split())


def _from_environment(variable: str) -> Path | None:
    value = os.environ.get(variable, "")
    return Path(value).expanduser() if value else None
