"""Decoded images kept on disk, so that each archive is decoded once. A convenience: no failure here is fatal."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from study.machine.folders import replacing

from .dataset import Contents, array_checksum
from .places import cache_folder

_FORMAT = 2  # raise when readers decode differently: older caches are then ignored


def remember(name: str, sha256: str, decode: Callable[[], Contents]) -> Contents:
    """The contents cached under this name and checksum (hex), else those of `decode()`, cached for the next time.

    One that is damaged, or holds other images than were put there, is deleted and rebuilt. Where it cannot be written,
    a warning says so and the contents are returned.
    """
    path = place(name, sha256)
    contents = _read(path, sha256)
    if contents is None:
        contents = decode()
        _write(path, contents, sha256)
    return contents


def place(name: str, sha256: str) -> Path:
    """Where the contents of that name and checksum (hex) are kept."""
    return cache_folder() / f"{name}-{sha256[:16]}-v{_FORMAT}.npz"


def _read(path: Path, sha256: str) -> Contents | None:
    """Cached contents, or None where there are none that can be used."""
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as arrays:  # checks each member's CRC-32
            *four, classes, said = (arrays[field] for field in (*Contents._fields, "said"))
        contents = Contents(*four, tuple(str(name) for name in classes))
        _check(contents)
        if said != _said(contents, sha256):
            raise ValueError("it holds other images, labels or names than were put there")
        return contents
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        warnings.warn(f"cannot read the cache {path} ({error.strerror or error}); decoding again", stacklevel=4)
        return None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 (damaged bytes make numpy and zipfile raise almost anything)
        why = str(error) or type(error).__name__
        warnings.warn(f"the cache {path} is damaged ({why}); it is deleted and rebuilt", stacklevel=4)
        with contextlib.suppress(OSError):  # the rebuilt cache replaces it, or warns in its turn
            path.unlink(missing_ok=True)
        return None


def _said(contents: Contents, sha256: str) -> str:
    """What a cache says of itself: the checksum of what it was decoded from, and that of what it holds."""
    return f"{sha256} {array_checksum(contents)}"


def _check(contents: Contents) -> None:
    for images, labels in (contents[:2], contents[2:4]):
        if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype != np.int64 or len(images) != len(labels):
            raise ValueError("it holds other arrays than images and labels")


def _write(path: Path, contents: Contents, sha256: str) -> None:
    """Write whole or not at all: a killed run leaves no half-written cache."""
    try:
        with replacing(path) as partial, open(partial, "wb") as handle:
            np.savez(handle, **contents._asdict(), said=_said(contents, sha256))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:  # its own remedy is for records
        warnings.warn(
            f"cannot write the cache {path} ({error.__cause__}); going on without it. Free some space or set "
            "ADVLIB_CACHE to a writable folder to save decoding next time",
            stacklevel=4,
        )
