"""Images for training and testing: found or downloaded, verified, decoded once, cached, handed over as uint8 tensors.

One call, `load(name)`, gives a `Dataset`. The names:

- `digits`: scikit-learn's 1,797 scanned digits; needs no download.
- `cifar10`, `cifar100`, `svhn`: the original archives, found on disk or downloaded.
- `cifar10-jpeg`: a lossy JPEG copy of CIFAR-10 in one archive; `cifar10-jpeg:PATH` reads any archive of that layout.
- `folder:PATH`: your own images, one folder a class.

Three environment variables: `ADVLIB_DATA`, a folder that holds archives; `ADVLIB_CACHE`, where decoded images are kept;
`ADVLIB_MIRROR`, addresses (separated by spaces) under which the archives lie, tried before the built-in ones.

Importing this module imports neither torch nor any decoder: checking a name is quick.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from .dataset import Dataset, array_checksum

__all__ = ["DATASETS", "Dataset", "check_name", "checksum", "is_here", "load"]

DATASETS: tuple[str, ...] = (
    "digits",
    "cifar10",
    "cifar100",
    "svhn",
    "cifar10-jpeg",
    "cifar10-jpeg:<path>",
    "folder:<path>",
)


def check_name(name: str) -> tuple[str, str | None]:
    """Split a dataset's name into its kind and its path, without touching the disk.

    Returns ("cifar10", None) for "cifar10" and ("folder", "my/images") for "folder:my/images".
    Raises TypeError for anything but a string, ValueError for a name that is not one of `DATASETS` or not Unicode.
    """
    if not isinstance(name, str):
        raise TypeError(f"dataset must be a string such as 'digits', not {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError as error:  # bytes of a path in another encoding, which no record or page could hold
        raise ValueError(f"dataset {name!r} is not Unicode; rename its path") from error
    kind, colon, path = name.partition(":")
    takes_path = {listed.partition(":")[0] for listed in DATASETS if ":" in listed}
    if colon and kind in takes_path:
        if not path:
            raise ValueError(f"dataset {name!r} lacks its path; write {kind}:PATH")
        return kind, path
    if not colon and kind in DATASETS:
        return kind, None
    if not colon and kind in takes_path:
        raise ValueError(f"dataset {name!r} needs a path; write {kind}:PATH")
    close = difflib.get_close_matches(kind.lower(), {listed.partition(":")[0] for listed in DATASETS}, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"unknown dataset {name!r}. {hint}Known: {', '.join(DATASETS)}")


def is_here(name: str) -> bool:
    """Whether a dataset can be loaded without a download, as far as names of files tell. Errors as for `check_name`.

    One that is named by a path counts as here.
    """
    kind, path = check_name(name)
    if path is not None or kind == "digits":
        return True
    from . import source

    return source.is_here(_source(kind))


def load(name: str, *, download: bool = True) -> Dataset:
    """Load a dataset by name: from the cache of decoded images, else from its archive, which is downloaded if need be.

    download: False never opens a connection.

    Raises ValueError for an unknown name, a corrupt archive or an unusable folder, FileNotFoundError for an absent
    archive or folder, ConnectionError when no address answers, OSError when an archive cannot be written. Each message
    names the file or the address, and the remedy.
    """
    kind, path = check_name(name)
    if kind == "digits":
        from .digits import load_digits

        return load_digits()
    if kind == "folder":
        from .folder import load_folder

        return load_folder(Path(path))
    if path is not None:
        from .jpeg import load_jpeg_archive

        return load_jpeg_archive(Path(path))

    from .source import load_source

    return load_source(_source(kind), download=download)


def checksum(name: str) -> str | None:
    """`Dataset.checksum` of the data that are here, without torch; None where they are not. Errors as for `load`."""
    kind, path = check_name(name)
    if path is None and kind != "digits":
        return f"sha256:{_source(kind).sha256}" if is_here(name) else None
    try:
        if kind == "digits":
            from . import digits

            return array_checksum(digits.read())
        if kind == "folder":
            from . import folder

            return array_checksum(folder.read(Path(path)))
        from .download import sha256_of
        from .places import own

        return f"sha256:{sha256_of(own(Path(path)))}"
    except OSError:
        return None


def _source(kind: str):
    """The published dataset behind a plain name."""
    from . import cifar, jpeg, svhn

    return {source.name: source for source in (cifar.CIFAR10, cifar.CIFAR100, svhn.SVHN, jpeg.CIFAR10_JPEG)}[kind]
