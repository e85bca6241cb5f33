"""SVHN, cropped digits, in the original format: two MATLAB files (Netzer et al. 2011). The extra set is not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .archive import Archive
from .dataset import Contents
from .source import Source


def read(paths: tuple[Path, ...]) -> Contents:
    """Read train_32x32.mat and test_32x32.mat. Label 10 stands for the digit 0 there, and becomes 0 here."""
    train_path, test_path = paths
    return Contents(*_read_one(train_path), *_read_one(test_path), tuple("0123456789"))


def _read_one(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import loadmat

    arrays = loadmat(path)
    images = np.ascontiguousarray(arrays["X"].transpose(3, 2, 0, 1))  # (H, W, C, N) in the file
    labels = arrays["y"].astype(np.int64).reshape(-1) % 10
    return images, labels


SVHN = Source(
    name="svhn",
    title="SVHN",
    archives=(
        Archive(
            filename="train_32x32.mat",
            size=182_040_794,
            sha256="435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            urls=("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",),
        ),
        Archive(
            filename="test_32x32.mat",
            size=64_275_384,
            sha256="cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            urls=("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",),
        ),
    ),
    read=read,
)
