"""A published dataset: its archives, how to read them, and what to call the result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import cache
from .archive import Archive, obtain
from .dataset import Contents, Dataset, from_contents
from .places import search_folders


@dataclass(frozen=True)
class Source:
    """name and title as in `Dataset`; read: verified archives to contents; mean and std: None computes them."""

    name: str
    title: str
    archives: tuple[Archive, ...]
    read: Callable[[tuple[Path, ...]], Contents]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def sha256(self) -> str:
        """The archive's checksum in hex; of several, the checksum of their checksums joined."""
        if len(self.archives) == 1:
            return self.archives[0].sha256
        return hashlib.sha256("".join(archive.sha256 for archive in self.archives).encode()).hexdigest()


def is_here(source: Source) -> bool:
    """Whether it can be loaded without a download: its archives are found, or the images decoded from them."""
    found = [any((folder / archive.filename).is_file() for folder in search_folders()) for archive in source.archives]
    return all(found) or cache.place(source.name, source.sha256).is_file()


def load_source(source: Source, *, download: bool) -> Dataset:
    """Load a published dataset; once it is cached its archives are needed no more."""

    def decode() -> Contents:
        return source.read(tuple(obtain(archive, download=download) for archive in source.archives))

    contents = cache.remember(source.name, source.sha256, decode)
    return from_contents(
        contents,
        name=source.name,
        title=source.title,
        checksum=f"sha256:{source.sha256}",
        mean=source.mean,
        std=source.std,
    )
