"""A user's own images: one folder a class, either under train/ and test/ or with a fixed split made here.

Every image is turned upright, cropped to its central square and resized to 32x32 RGB. The order is shuffled by a fixed
seed, so that the first n images are a sample of all classes; it depends on the sorted file names alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import cache
from .dataset import Contents, Dataset, array_checksum, from_contents
from .listing import Listing, list_images, readable
from .places import own

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SIZE = 32  # pixels a side
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # whatever a file is called: others start a program


def load_folder(path: Path) -> Dataset:
    """Load <path>/train/<class>/* with <path>/test/<class>/*, or <path>/<class>/* with an 80/20 split in each class.

    Raises FileNotFoundError for no such folder; ValueError for one that cannot be listed (see :func:`list_images`), or
    a file that cannot be decoded (named).
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
    folder = own(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; give one that holds a folder of images for each class, or put it, or a link "
            "to it, into data/"
        )
    classes, train, test = list_images(folder)
    return cache.remember(
        "folder",
        _fingerprint(folder, train, test),
        lambda: Contents(*_decode_all(train), *_decode_all(test), classes),
    )


def _fingerprint(folder: Path, train: Listing, test: Listing) -> str:
    """SHA-256 in hex over names, places and bytes of the files: reading them is far quicker than decoding them."""
    digest = hashlib.sha256()
    for split, listing in (("train", train), ("test", test)):
        for file, label in listing:
            try:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
            except OSError as error:
                raise ValueError(
                    f"cannot read {readable(file)}: {error.strerror or error}; repair or remove it"
                ) from error
            place = os.fsencode(file.relative_to(folder).as_posix())  # as on disk: not every name is Unicode
            digest.update(f"{split} {label} ".encode() + place + f" {content}\n".encode())
    return digest.hexdigest()


def _decode_all(listing: Listing) -> tuple[np.ndarray, np.ndarray]:
    from study.machine.progress import progress

    images = np.empty((len(listing), 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    for place, (file, _) in enumerate(progress(listing, desc="decoding images", unit="img")):
        images[place] = _decode(file)
    return images, np.array([label for _, label in listing], dtype=np.int64)


def _decode(file: Path) -> np.ndarray:
    """One image file as uint8 (3, 32, 32). Transparency is dropped; of an animation, the first frame counts."""
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as opened:
            if opened.mode.startswith(("I", "F")):  # converting would clip these to white without a word
                raise ValueError(f"mode {opened.mode!r} has more than 8 bits a channel; save it as 8-bit RGB or grey")
            image = _upright(opened)
    except Exception as error:  # Pillow raises a different one for each kind of damage
        raise ValueError(f"cannot decode {readable(file)}: {error}. Repair or remove it.") from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped before it is resized: resizing a box of the whole image lets pixels outside the box bleed into its edge.
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def _upright(opened: Image.Image) -> Image.Image:
    """In RGB, turned as the EXIF asks for. No other word of the EXIF is kept: Pillow stops at some when it turns."""
    from PIL import ExifTags, ImageOps

    image = opened.convert("RGB")
    image.info.clear()
    with contextlib.suppress(Exception):  # none, or a damaged one, which raises almost anything
        image.getexif()[ExifTags.Base.Orientation] = opened.getexif()[ExifTags.Base.Orientation]
    return ImageOps.exif_transpose(image)
