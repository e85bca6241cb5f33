"""An archive with a known checksum: found on disk, else downloaded, and never opened before the checksum matches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .download import fetch, sha256_of
from .places import download_folder, mirrors, search_folders


@dataclass(frozen=True)
class Archive:
    """One file as its publisher released it. size in bytes, sha256 in hex, urls in the order to try."""

    filename: str
    size: int
    sha256: str
    urls: tuple[str, ...] = ()


def verify(path: Path, archive: Archive) -> None:
    """Raise ValueError unless the file at `path` is the archive, byte for byte."""
    size = path.stat().st_size
    remedy = f"Delete {path} and run again to download it anew, or put an intact copy there"
    if not archive.urls and not mirrors():
        remedy = f"Replace {path} by an intact copy"
    if size != archive.size:
        state = "half-downloaded" if size < archive.size else "not the archive that was published"
        raise ValueError(f"{path} is {state}: expected {archive.size:,} bytes, found {size:,}. {remedy}.")
    found = sha256_of(path)
    if found != archive.sha256:
        raise ValueError(f"{path} is corrupt: expected sha256 {archive.sha256}, found {found}. {remedy}.")


def obtain(archive: Archive, *, download: bool) -> Path:
    """Path of the verified archive: the first copy found, else a download.

    Raises FileNotFoundError when it is absent and must not or cannot be downloaded, ValueError when a copy is corrupt,
    ConnectionError when every address fails.
    """
    folders = search_folders()
    for folder in folders:
        path = folder / archive.filename
        if path.is_file():
            verify(path, archive)
            return path

    target = download_folder() / archive.filename
    remedy = (
        f"Put the file ({archive.size:,} bytes, sha256 {archive.sha256}) at {target} yourself, name a folder that has "
        f"it in ADVLIB_DATA or an address that has it in ADVLIB_MIRROR, or use "
        f"{_alternatives(archive.filename)}"
    )
    urls = tuple(f"{mirror.rstrip('/')}/{archive.filename}" for mirror in mirrors()) + archive.urls
    if not urls:
        raise FileNotFoundError(f"{archive.filename} was found in none of {_listed(folders)}. {remedy}.")
    if not download:
        raise FileNotFoundError(
            f"{archive.filename} was found in none of {_listed(folders)}, and downloading is off. Allow it "
            f"(download=True fetches {urls[0]}). Or: {remedy}."
        )
    fetch(target, urls, size=archive.size, sha256=archive.sha256, remedy=remedy)
    return target


def _alternatives(filename: str) -> str:
    """Datasets that need less from the network than the one that failed."""
    if filename == "cifar-10-python.tar.gz":
        return 'dataset="cifar10-jpeg" or "digits"'
    return 'dataset="digits", which needs no download'


def _listed(folders: tuple[Path, ...]) -> str:
    return ", ".join(str(folder) for folder in folders)
