"""Which files of a folder are images of which class, to train and to test. Nothing is left out without a word."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TEST_SHARE = 0.2  # of each class, where there is no test folder
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SEED = 0
_HALVES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"),
}
# Left behind by file managers, unpackers and network drives, often with thumbnails of the images.
_SYSTEM = ("$recycle.bin", "@eadir", "__macosx", "__pycache__", "lost+found", "system volume information")

Files = dict[str, list[Path]]  # by class
Listing = list[tuple[Path, int]]  # files with their labels


def list_images(folder: Path) -> tuple[tuple[str, ...], Listing, Listing]:
    """Class names, training files and test files, in canonical order. A warning counts what is left out.

    Raises ValueError, with the remedy, for no images, a single class, a class without images or with too few, classes
    that differ between train and test, a split under other names, or a name or folder that cannot be read.
    """
    left_out: Counter[str] = Counter()
    classes, train, test = _halves(folder, left_out)
    if +left_out:
        warnings.warn(
            f"{folder}: left out: {_counted(left_out)}. Read are files that end in {', '.join(SUFFIXES)}, in class "
            "folders that are not hidden",
            stacklevel=4,
        )
    return classes, _shuffled(classes, train), _shuffled(classes, test)


def readable(name: str | Path) -> str:
    """A name as it can be printed: what is not Unicode in it stands as an escape."""
    return str(name).encode(errors="backslashreplace").decode()


def _halves(folder: Path, left_out: Counter[str]) -> tuple[tuple[str, ...], Files, Files]:
    """Class names, training files and test files, from train/ and test/ or by a fixed split."""
    beside: Counter[str] = Counter()
    subfolders = _subfolders(folder, beside)
    if not {"train", "test"} <= set(subfolders):
        _refuse_a_split(folder, subfolders)
        together = _by_class(folder, left_out)
        return _class_names(folder, together), *_split(folder, together)
    left_out.update(beside)
    for name in set(subfolders) - {"train", "test"}:
        left_out["beside train/ and test/"] += sum(1 for _ in _images(folder / name, Counter()))
    train, test = (_by_class(folder / half, left_out) for half in ("train", "test"))
    if set(train) != set(test):
        odd = ", ".join(sorted(set(train) ^ set(test)))
        raise ValueError(f"{folder}: train/ and test/ must have the same classes; only one of them has: {odd}")
    return _class_names(folder, train), train, test


def _refuse_a_split(folder: Path, subfolders: list[str]) -> None:
    """Raise ValueError where subfolders look like halves of a split: both halves, or one with folders of classes."""
    found = {name: half for name in subfolders if (half := _half(name))}
    below = (entry for name in found for entry in (folder / name).iterdir())
    nested = any(entry.is_dir() and not _is_hidden(entry.name) for entry in below)
    if nested or len(set(found.values())) == len(_HALVES):
        present = ", ".join(f"{name}/" for name in found)
        absent = " and no ".join(f"{half}/" for half in _HALVES if half not in found)
        raise ValueError(
            f"{folder} has {present} but no {absent}. Name the folder to train on train/ and the one to test on test/, "
            "with a folder for each class in both; or move the classes up beside each other; or rename what is a class"
        )


def _half(name: str) -> str | None:
    """The half of a split that a folder's name speaks of: "test" for "Testing", "val2017" or "seg_test"."""
    words = [word.removesuffix("set").removesuffix("data") for word in re.split("[^a-z]+", name.casefold())]
    return next((half for half, known in _HALVES.items() if not set(words).isdisjoint(known)), None)


def _by_class(folder: Path, left_out: Counter[str]) -> Files:
    """The image files below each class folder, sorted. Raises ValueError for a folder without images."""
    found: Files = {}
    for subfolder in (folder / name for name in _subfolders(folder, left_out)):
        of_class: Counter[str] = Counter()
        files = list(_images(subfolder, of_class))
        if not files:
            why = f"left out: {_counted(of_class)}" if +of_class else "it is empty"
            raise ValueError(
                f"{readable(subfolder)} would be a class without images ({why}); put files there that end in "
                f"{', '.join(SUFFIXES)}, or, if it is no class, move it away"
            )
        found.setdefault(_class_name(subfolder), []).extend(files)
        left_out.update(of_class)
    return {name: sorted(files, key=lambda file: _composed(file.relative_to(folder))) for name, files in found.items()}


def _subfolders(folder: Path, left_out: Counter[str]) -> list[str]:
    """Names of the visible folders, sorted. Raises ValueError for a link to nothing, which may have been a class."""
    _, subfolders, files = next(os.walk(folder, onerror=_refuse))
    for file in (folder / name for name in files if not _is_hidden(name)):
        if not file.exists():
            raise ValueError(f"{readable(file)} is a link to nothing; mend or remove it")
        left_out["outside the class folders"] += file.suffix.lower() in SUFFIXES
    left_out["hidden or system"] += sum(map(_is_hidden, subfolders))
    return sorted(name for name in subfolders if not _is_hidden(name))


def _images(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """The images below a folder; what else is there is counted by why it is left out."""
    for path in _walk(folder):
        suffix = path.suffix.lower()
        if _is_hidden(path.name):  # a file of the system, such as .DS_Store, is not worth a word
            left_out["hidden or system"] += path.is_dir() or suffix in SUFFIXES
        elif not path.is_file():
            left_out["linked to nothing"] += 1
        elif suffix not in SUFFIXES:
            left_out[readable(suffix) or "without an ending"] += 1
        else:
            yield path


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, through links to folders too, but each folder once; a hidden folder as one path."""
    seen = set(folder.resolve().parents)  # a link upwards leads to other classes
    for place, subfolders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = Path(place).resolve()
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in (*files, *filter(_is_hidden, subfolders)))
        subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))


def _refuse(error: OSError) -> None:
    raise ValueError(f"cannot read {readable(error.filename)}: {error.strerror}; make it readable or remove it")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _class_name(folder: Path) -> str:
    """In the composed form of Unicode: macOS and others write one and the same name in two ways."""
    name = _composed(folder.name)
    if readable(name) != name:
        raise ValueError(f"the name of the class folder {readable(folder)} is not Unicode; rename it")
    return name


def _composed(name: str | Path) -> str:
    return unicodedata.normalize("NFC", Path(name).as_posix())


def _counted(left_out: Counter[str]) -> str:
    return ", ".join(f"{count:,} {why}" for why, count in sorted((+left_out).items()))


def _class_names(folder: Path, files: Files) -> tuple[str, ...]:
    if not files:
        raise ValueError(
            f"{folder} has no images in class folders; put them at <class>/<file> with one of {', '.join(SUFFIXES)}"
        )
    if len(files) == 1:
        raise ValueError(
            f"{folder} has one class only, {next(iter(files))!r}; classification needs two or more folders"
        )
    return tuple(sorted(files))


def _split(folder: Path, files: Files) -> tuple[Files, Files]:
    """Each class's files shuffled by the fixed seed and divided; both parts get at least one."""
    train, test = {}, {}
    for name, of_class in files.items():
        if len(of_class) < 2:
            raise ValueError(f"{folder}: class {name!r} has one image; at least 2 are needed, to train and to test")
        count = max(1, round(TEST_SHARE * len(of_class)))
        order = np.random.RandomState(_SEED).permutation(len(of_class))
        test[name] = [of_class[place] for place in sorted(order[:count])]
        train[name] = [of_class[place] for place in sorted(order[count:])]
    return train, test


def _shuffled(classes: tuple[str, ...], files: Files) -> Listing:
    listing = [(file, label) for label, name in enumerate(classes) for file in files[name]]
    return [listing[place] for place in np.random.RandomState(_SEED).permutation(len(listing))]
