"""What a loaded dataset is: images as uint8, labels as int64, and the words and constants that belong to them."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # torch takes over a second to import, and checking a name needs none of it
    import torch
    from torch import Tensor


class Contents(NamedTuple):
    """Decoded images as numpy arrays, as a reader returns them and the cache keeps them.

    Images uint8 (N, C, H, W), labels int64 (N,) in 0..K-1, classes K names.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training set and a test set in canonical order.

    name: as given to `load`, e.g. "cifar10-jpeg".
    title: what prose and tables must say, e.g. "CIFAR-10, JPEG copy".
    classes: K names.
    mean, std: per channel, for pixels in [0, 1].
    train_images, test_images: uint8 (N, C, H, W). Divide by 255 for pixels in [0, 1].
    train_labels, test_labels: int64 (N,) in 0..K-1.
    checksum: "sha256:..." of the source, an archive file or (digits, folders) the decoded arrays and class names.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    checksum: str

    def __post_init__(self) -> None:
        _check_split(self.name, "train", self.train_images, self.train_labels, len(self.classes))
        _check_split(self.name, "test", self.test_images, self.test_labels, len(self.classes))

    def subset(self, train_size: int, test_size: int) -> Dataset:
        """The first `train_size` training and `test_size` test images in canonical order; 0 takes all of them.

        Raises TypeError unless both are integers, ValueError for a negative size or one beyond the images there are.
        """
        train = _size(self.name, "train_size", train_size, len(self.train_labels))
        test = _size(self.name, "test_size", test_size, len(self.test_labels))
        return dataclasses.replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[:test],
            test_labels=self.test_labels[:test],
        )

    def to(self, device: torch.device | str) -> Dataset:
        """The same dataset with its four tensors on `device`."""
        return dataclasses.replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


def from_contents(
    contents: Contents,
    *,
    name: str,
    title: str,
    checksum: str,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Dataset:
    """Make a `Dataset` of decoded arrays; without mean and std they are computed from the training images."""
    import torch

    if mean is None or std is None:
        mean, std = channel_statistics(contents.train_images)
    return Dataset(
        name=name,
        title=title,
        classes=tuple(contents.classes),
        mean=mean,
        std=std,
        train_images=torch.from_numpy(contents.train_images),
        train_labels=torch.from_numpy(contents.train_labels),
        test_images=torch.from_numpy(contents.test_images),
        test_labels=torch.from_numpy(contents.test_labels),
        checksum=checksum,
    )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of uint8 (N, C, H, W), in [0, 1], to 4 decimals.

    A constant channel gets the standard deviation 1, so that standardising divides by no zero.
    """
    means, stds = [], []
    for channel in range(images.shape[1]):
        # A histogram makes the sums exact and independent of their order, so every machine finds the same constants.
        counts = np.bincount(images[:, channel].ravel(), minlength=256).astype(np.float64)
        values = np.arange(256) / 255
        mean = counts @ values / counts.sum()
        variance = counts @ (values - mean) ** 2 / counts.sum()
        means.append(round(float(mean), 4))
        stds.append(round(float(variance**0.5), 4) or 1.0)
    return tuple(means), tuple(stds)


def array_checksum(contents: Contents) -> str:
    """ "sha256:..." over shapes, bytes and class names: changes with any pixel, label, name or order."""
    digest = hashlib.sha256(repr(contents.classes).encode())
    for array in contents[:4]:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
    return f"sha256:{digest.hexdigest()}"


def _size(name: str, argument: str, wanted: int, available: int) -> int:
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        raise TypeError(f"{argument} must be an integer, not {wanted!r}; 0 takes all {available:,} images")
    if wanted < 0:
        raise ValueError(f"{argument} is {wanted}; give a positive number, or 0 for all {available:,} images")
    if wanted > available:
        raise ValueError(
            f"{argument} is {wanted:,}, but dataset {name!r} has {available:,}; give at most that, or 0 for all"
        )
    return wanted or available


def _check_split(name: str, split: str, images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Refuse tensors that a training loop would misread in silence."""
    import torch

    where = f"dataset {name!r}, {split} images"
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"{where}: must be uint8 (N, C, H, W), not {images.dtype} of shape {tuple(images.shape)}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{where}: {len(images)} images need as many int64 labels, not {labels.dtype} of {tuple(labels.shape)}"
        )
    if len(labels) == 0:
        raise ValueError(f"{where}: there are none; give a dataset with at least one training and one test image")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"{where}: labels go from {lowest} to {highest}, but {num_classes} classes allow 0 to {num_classes - 1}"
        )
