"""CIFAR-10 as JPEG files in one tar archive: train/<class>/<index>.jpg and test/<class>/<index>.jpg.

A lossy copy (quality 75, chroma subsampled), for machines that cannot reach the original; every number from it must say
so. <index> is the image's place in the original, so the canonical order is rebuilt. The checksum is the archive's; the
decoded pixels may differ slightly between versions of the JPEG library.
"""

from __future__ import annotations

import dataclasses
import io
import re
import tarfile
import warnings
import zlib
from pathlib import Path

import numpy as np

from . import cache
from .archive import Archive
from .cifar import CIFAR10_MEAN, CIFAR10_STD
from .dataset import Contents, Dataset, from_contents
from .download import sha256_of
from .listing import SUFFIXES, readable
from .places import own
from .source import Source

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MEMBER = re.compile(r"(?:\./)?(train|test)/([^/]+)/(\d+)\.jpe?g")


def load_jpeg_archive(path: Path) -> Dataset:
    """Load any archive of this layout by its path; its own checksum identifies it, and the title says if it is another.

    Raises FileNotFoundError for no such file, ValueError for one that is damaged or of another layout.
    """
    given, path = path, own(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no archive {path}; give the path of a cifar10-jpeg.tar.gz after the colon")
    sha256 = sha256_of(path)
    title = CIFAR10_JPEG.title if sha256 == CIFAR10_JPEG.sha256 else f"{CIFAR10_JPEG.title} (another: {sha256[:12]})"
    return from_contents(
        cache.remember(CIFAR10_JPEG.name, sha256, lambda: read((path,))),
        name=f"{CIFAR10_JPEG.name}:{given}",
        title=title,
        checksum=f"sha256:{sha256}",
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
    )


def read(paths: tuple[Path, ...]) -> Contents:
    """Decode an archive straight from its stream, with a progress bar on a terminal.

    Raises ValueError, naming the file or the member, for a damaged archive, an unknown class, an index given twice, an
    image that is not 32x32 or cannot be decoded, or a split without images.
    """
    (path,) = paths
    left_out: list[str] = []
    splits: dict[str, _Split] = {"train": _Split(), "test": _Split()}
    for split, class_name, index, member, data in _members(path, left_out):
        if class_name not in CLASSES:
            raise ValueError(f"{path}: {member} is in an unknown class; the classes are {', '.join(CLASSES)}")
        if index in splits[split].labels:
            raise ValueError(
                f"{path}: {member} repeats index {index} of the {split} images; each index must occur once"
            )
        splits[split].labels[index] = CLASSES.index(class_name)
        splits[split].images[index] = _decode(path, member, data)
    for name, split in splits.items():
        if not split.labels:
            raise ValueError(f"{path} has no image {name}/<class>/<index>.jpg; use an archive of that layout")
    if left_out:
        warnings.warn(
            f"{path}: left out: {len(left_out):,} images that are no file <split>/<class>/<index>.jpg, the first "
            f"{left_out[0]}",
            stacklevel=4,
        )
    return Contents(*splits["train"].arrays(), *splits["test"].arrays(), CLASSES)


@dataclasses.dataclass
class _Split:
    """Labels and images of one split by their index in the original."""

    labels: dict[int, int] = dataclasses.field(default_factory=dict)
    images: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        order = sorted(self.labels)
        images = np.empty((len(order), 3, 32, 32), dtype=np.uint8)
        for place, index in enumerate(order):
            images[place] = self.images[index]
        return images, np.array([self.labels[index] for index in order], dtype=np.int64)


def _members(path: Path, left_out: list[str]):
    """Each image of the archive in turn: split, class name, index, name of the member, JPEG bytes.

    The names of images elsewhere, or linked to, are appended to `left_out`.
    """
    from tqdm.utils import CallbackIOWrapper

    from study.machine.progress import progress

    size, name = path.stat().st_size, f"decoding {path.name}"
    with open(path, "rb") as handle, progress(total=size, desc=name, unit="B", unit_scale=True) as bar:
        try:
            with tarfile.open(fileobj=CallbackIOWrapper(bar.update, handle, "read")) as tar:
                for member in tar:
                    match = _MEMBER.fullmatch(member.name)
                    if match and member.isfile():
                        split, class_name, index = match.groups()
                        yield split, class_name, int(index), member.name, tar.extractfile(member).read()
                    elif member.name.lower().endswith(SUFFIXES):
                        left_out.append(readable(member.name))
                while tar.fileobj.read(1 << 16):  # to the very end, where gzip checks its CRC
                    pass
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise ValueError(
                f"{path} is damaged or half-downloaded ({error}): found {size:,} bytes; the archive whose checksum is "
                f"known has {CIFAR10_JPEG.archives[0].size:,}. Replace it by an intact copy."
            ) from error


def _decode(path: Path, member: str, data: bytes) -> np.ndarray:
    """JPEG bytes to uint8 (3, 32, 32)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises a different one for each kind of damage
        raise ValueError(f"{path}: {member} cannot be decoded ({error}); use an intact archive") from error
    if pixels.shape != (32, 32, 3):
        height, width, _ = pixels.shape
        raise ValueError(
            f"{path}: {member} is {width}x{height}, not 32x32; for images of other sizes use folder:<path>"
        )
    return pixels.transpose(2, 0, 1)


CIFAR10_JPEG = Source(
    name="cifar10-jpeg",
    title="CIFAR-10, JPEG copy",
    archives=(
        Archive(
            filename="cifar10-jpeg.tar.gz",
            size=19_485_318,
            sha256="23cf7bcef52aeec674282a75b7b920f2975ccd2c79d188b9feabfc6e48fac38e",
        ),
    ),
    read=read,
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
)
