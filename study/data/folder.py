"""A user's own images: one folder a class, either under train/ and test/ or with a fixed split made here.

Every image is turned upright, cropped to its central square and resized to 32x32 RGB. The order is shuffled by a fixed
seed, so that the first n images are a sample of all classes; it depends on the sorted file names alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from . import cache
from .dataset import Contents, Dataset, array_checksum, from_contents

IMAGE_SIZE = 32  # pixels a side
TEST_SHARE = 0.2  # of each class, where there is no test folder
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SEED = 0

Listing = list[tuple[Path, int]]  # files with their labels


def load_folder(path: Path) -> Dataset:
    """Load <path>/train/<class>/* with <path>/test/<class>/*, or <path>/<class>/* with an 80/20 split in each class.

    Raises FileNotFoundError for no such folder; ValueError for no images, a single class, a class with too few images,
    classes that differ between train and test, or a file that cannot be decoded (named).
    """
    contents = read(path)
    return from_contents(
        contents,
        name=f"folder:{path}",
        title=f"own images, {path.expanduser().resolve().name}",
        checksum=array_checksum(contents),
    )


def read(path: Path) -> Contents:
    """The images of a folder as arrays, without torch; errors as for `load_folder`."""
    folder = path.expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give one that holds a folder of images for each class")
    classes, train, test = _listing(folder)
    return cache.remember(
        "folder",
        _fingerprint(folder, train, test),
        lambda: Contents(*_decode_all(train), *_decode_all(test), classes),
    )


def _listing(folder: Path) -> tuple[tuple[str, ...], Listing, Listing]:
    """Class names, training files and test files, in canonical order."""
    subfolders = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    halves = subfolders & {"train", "test"}
    if halves == {"train", "test"}:
        train, test = _by_class(folder / "train"), _by_class(folder / "test")
        if set(train) != set(test):
            odd = ", ".join(sorted(set(train) ^ set(test)))
            raise ValueError(f"{folder}: train/ and test/ must have the same classes; only one of them has: {odd}")
        classes = _class_names(folder, train)
    elif halves and any(entry.is_dir() for half in halves for entry in (folder / half).iterdir()):
        (present,) = halves
        absent = "test" if present == "train" else "train"
        raise ValueError(
            f"{folder} has {present}/ but no {absent}/; add {absent}/<class>/, or move the classes up beside each other"
        )
    else:
        together = _by_class(folder)
        classes = _class_names(folder, together)
        train, test = _split(folder, together)
    return classes, _shuffled(classes, train), _shuffled(classes, test)


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """The image files below each class folder, sorted; folders without images are no classes."""
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir() and not entry.name.startswith("."):
            files = [
                file
                for file in entry.rglob("*")
                if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
            ]
            if files:
                found[entry.name] = sorted(files, key=lambda file: file.relative_to(folder).as_posix())
    return found


def _class_names(folder: Path, files: dict[str, list[Path]]) -> tuple[str, ...]:
    if not files:
        raise ValueError(
            f"{folder} has no images in class folders; put them at <class>/<file> with one of {', '.join(SUFFIXES)}"
        )
    if len(files) == 1:
        raise ValueError(
            f"{folder} has one class only, {next(iter(files))!r}; classification needs two or more folders"
        )
    return tuple(sorted(files))


def _split(folder: Path, files: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
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


def _shuffled(classes: tuple[str, ...], files: dict[str, list[Path]]) -> Listing:
    listing = [(file, label) for label, name in enumerate(classes) for file in files[name]]
    return [listing[place] for place in np.random.RandomState(_SEED).permutation(len(listing))]


def _fingerprint(folder: Path, train: Listing, test: Listing) -> str:
    """SHA-256 in hex over names, places and bytes of the files: reading them is far quicker than decoding them."""
    digest = hashlib.sha256()
    for split, listing in (("train", train), ("test", test)):
        for file, label in listing:
            try:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
            except OSError as error:
                raise ValueError(f"cannot read {file}: {error.strerror or error}; repair or remove it") from error
            digest.update(f"{split} {label} {file.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _decode_all(listing: Listing) -> tuple[np.ndarray, np.ndarray]:
    from tqdm import tqdm

    images = np.empty((len(listing), 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    for place, (file, _) in enumerate(tqdm(listing, desc="decoding images", unit="img", disable=None)):
        images[place] = _decode(file)
    return images, np.array([label for _, label in listing], dtype=np.int64)


def _decode(file: Path) -> np.ndarray:
    """One image file as uint8 (3, 32, 32). Transparency is dropped; of an animation, the first frame counts."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            if opened.mode.startswith(("I", "F")):  # converting would clip these to white without a word
                raise ValueError(f"mode {opened.mode!r} has more than 8 bits a channel; save it as 8-bit RGB or grey")
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # Pillow raises a different one for each kind of damage
        raise ValueError(f"cannot decode {file}: {error}. Repair or remove it.") from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped before it is resized: resizing a box of the whole image lets pixels outside the box bleed into its edge.
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
