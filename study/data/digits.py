"""scikit-learn's digits: 1,797 real scans that come with the package, so a run needs no download.

The 8x8 scans are doubled to 16x16 and repeated over three channels. ResNet-18 for small images halves its maps three
times: 16x16 leaves 2x2 before pooling, which keeps spatial structure to the end and a smoke run in seconds.
"""

from __future__ import annotations

import numpy as np

from .dataset import Contents, Dataset, array_checksum, from_contents

IMAGE_SIZE = 16  # pixels a side, after doubling
TEST_PER_CLASS = 30  # 300 test images, balanced; the other 1,497 train
_SPLIT_SEED = 0


def load_digits() -> Dataset:
    """The digits: 1,497 training and 300 test images, uint8 3x16x16, in a fixed shuffled order, 10 classes."""
    contents = read()
    return from_contents(contents, name="digits", title="scikit-learn digits", checksum=array_checksum(contents))


def read() -> Contents:
    """The digits as arrays, without torch."""
    from sklearn.datasets import load_digits as load_scans

    scans = load_scans()
    images = np.repeat(double(scans.images)[:, None], 3, axis=1)
    labels = scans.target.astype(np.int64)
    train, test = split(labels)
    return Contents(images[train], labels[train], images[test], labels[test], tuple("0123456789"))


def double(scans: np.ndarray) -> np.ndarray:
    """Bilinear interpolation of (N, 8, 8) grey values 0..16 to uint8 (N, 16, 16) in 0..255.

    The rule of torch's `interpolate` with `align_corners=False`: each new pixel is 3/4 of its parent and 1/4 of the
    neighbour on its side. In integers, so that every machine makes the same images.
    """
    values = scans.astype(np.int64)
    for axis in (1, 2):
        edge = [(0, 0)] * 3
        edge[axis] = (1, 1)
        padded = np.pad(values, edge, mode="edge")
        size = values.shape[axis]
        before, after = (np.take(padded, range(start, start + size), axis=axis) for start in (0, 2))
        pair = np.stack([3 * values + before, 3 * values + after], axis=axis + 1)  # four times the value
        values = pair.reshape([2 * n if i == axis else n for i, n in enumerate(values.shape)])
    brightest = 16 * 4 * 4
    return ((255 * values + brightest // 2) // brightest).astype(np.uint8)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, test): shuffled by a fixed seed, the first `TEST_PER_CLASS` of each class are the test set."""
    # RandomState's stream is frozen by numpy's policy, unlike that of a Generator.
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)  # place of each image within its class, in shuffled order
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    in_test = rank[order] < TEST_PER_CLASS
    return order[~in_test], order[in_test]
