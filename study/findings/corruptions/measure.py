"""Corruptions measured: test images spoilt by ``imagecorruptions``, and what trained networks make of them.

The library is imagecorruptions-imaug, the maintained fork of the package of Michaelis et al. (2019), which is made from
the code of Hendrycks and Dietterich (2019). It draws from numpy's global generator: each kind and severity is seeded by
its own name, so every network sees the same images, and the generators are left as they were.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from advlib.attacks import eval_mode, predictions
from study.data import Dataset, load
from study.data.pixels import to_pixels
from study.experiment.precision import float32
from study.experiment.weights import network
from study.findings.corruptions import judge
from study.findings.corruptions.judge import EXAMPLES, KINDS, NAME, SEVERITIES, SMALLEST, Corruptions
from study.machine.progress import progress
from study.records import Measurement, Record, packing
from study.records.packing import pack_mask

IMAGES = 500  # of the test set
BATCH = 250
LIBRARIES = ("imagecorruptions-imaug", "numpy", "scipy", "scikit-image", "opencv-python-headless", "numba", "pillow")
SHOWN = 1  # which test image the book shows spoilt
SHOWN_AT = 3  # and how severely
Corrupt = Callable[..., np.ndarray]


def corrupt(
    networks: Sequence[tuple[Record, Path]],
    results: Path,
    *,
    kinds: Sequence[str] = KINDS,
    images: int = IMAGES,
    root: Path | None = None,
    force: bool = False,
) -> list[Path]:
    """Measure the networks of records, whose weights are beside them in the pair, and write a file beside each record.

    One more file of the data set shows an image spoilt in every way. Kinds that a file has already are kept, and it
    grows by one kind at a time: a command that was killed goes on where it was. ``force`` starts anew.

    Raises ValueError on an unknown kind, on records of several data sets, and on data that are not the record's or too
    small; what loading raises; ImportError without the library.
    """
    kinds, spoil = judge.check_kinds(kinds), library()
    dataset = _the_data([record for record, _ in networks], root)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels = dataset.test_labels[:images]
    clean = dataset.test_images[:images].numpy()
    paths = [Path(results) / record.where / NAME for record, _ in networks]
    models, found = [], []
    for (record, weights), path in zip(networks, paths, strict=True):
        models.append(network(record, weights).to(device, memory_format=torch.channels_last))
        found.append(_begun(record, weights, path, len(clean), device, force))
        if not found[-1].measurements:
            measured = _measurement("clean", {"method": "none"}, models[-1], clean, labels)
            found[-1] = replace(found[-1], measurements=(measured,))
    for kind in progress(kinds, desc="corruptions"):
        missing = [k for k, one in enumerate(found) if kind not in one.pixels]
        if not missing:
            continue
        spoilt = {severity: corrupted(clean, kind, severity, spoil) for severity in SEVERITIES}
        digest = sha256(b"".join(pixels.tobytes() for pixels in spoilt.values())).hexdigest()[:16]
        for k in missing:
            measured = [
                _measurement(f"{kind}-{severity}", how(kind, severity), models[k], pixels, labels)
                for severity, pixels in spoilt.items()
            ]
            pixels = found[k].pixels | {kind: digest}
            found[k] = replace(found[k], pixels=pixels, measurements=(*found[k].measurements, *measured))
            judge.write(found[k], paths[k])
    write_examples(dataset, examples_path(results, networks[0][0]))
    return paths


def corrupted(images: np.ndarray, kind: str, severity: int, spoil: Corrupt | None = None) -> np.ndarray:
    """Every image spoilt: uint8 (N, 3, H, W) to the same. An image's outcome depends on its place, not on how many
    follow. Raises ValueError on an unknown kind or severity, and on images that the library cannot take.
    """
    judge.check_kinds([kind])
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity}: choose one of {', '.join(map(str, SEVERITIES))}")
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or min(images.shape[2:]) < SMALLEST:
        raise ValueError(
            f"images {images.dtype} of shape {images.shape}: corruptions are made for uint8 (N, 3, H, W) of at least "
            f"{SMALLEST} pixels a side, such as CIFAR-10's"
        )
    spoil = spoil or library()
    seed = how(kind, severity)["seed"]
    own = {"glass_blur", "impulse_noise"}  # these two do not draw from numpy's generator, and take a seed
    spoilt = []
    with _generators_kept():
        np.random.seed(seed)
        for image in images.transpose(0, 2, 3, 1):
            options = {"seed": int(np.random.randint(2**31))} if kind in own else {}
            spoilt.append(spoil(np.ascontiguousarray(image), severity, kind, **options))
    return np.ascontiguousarray(np.stack(spoilt).transpose(0, 3, 1, 2))


def how(kind: str, severity: int) -> dict:
    """What a measurement says of its images. The seed is that of the name, the same for every network."""
    seed = int.from_bytes(sha256(f"{kind}-{severity}".encode()).digest()[:4], "big")
    return {"method": "corruption", "kind": kind, "severity": severity, "seed": seed}


def library() -> Corrupt:
    """The function that spoils an image. ImportError, with the remedy, without it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from imagecorruptions import corrupt as spoil

        version(LIBRARIES[0])  # its unmaintained namesake has the same import name
    except ImportError as error:
        raise ImportError(
            f"corruptions need {LIBRARIES[0]} ({error}): pip install --no-deps -r requirements-peers.lock"
        ) from error
    return spoil


def write_examples(dataset: Dataset, path: Path) -> Path:
    """One test image, spoilt in every way, for the book to show: see :data:`SHOWN`."""
    image = dataset.test_images[SHOWN : SHOWN + 1].numpy()
    data = {
        "checksum": dataset.checksum,
        "index": SHOWN,
        "severity": SHOWN_AT,
        "size": list(image.shape[2:]),
        "pixels": {"clean": packing.pack(_for_eyes(image))}
        | {kind: packing.pack(_for_eyes(corrupted(image, kind, SHOWN_AT))) for kind in KINDS},
    }
    return packing.write(data, path)


def _for_eyes(images: np.ndarray) -> np.ndarray:
    return images[0].transpose(1, 2, 0)


def examples_path(results: Path, record: Record) -> Path:
    """Where :func:`write_examples` leaves its file for the book."""
    return Path(results).joinpath(*Path(record.where).parts[:2], EXAMPLES)


def _the_data(records: Sequence[Record], root: Path | None) -> Dataset:
    names = {record.config["dataset"] for record in records}
    if len(names) != 1:
        raise ValueError(f"records of {len(names)} data sets ({', '.join(sorted(names))}): give those of one at a time")
    dataset = load(names.pop(), root=root)
    for record in records:
        if dataset.checksum != record.data["checksum"]:
            raise ValueError(f"{record.where} is of other data than {dataset.name!r} here: their checksums differ")
    return dataset


def _begun(record: Record, weights: Path, path: Path, images: int, device: torch.device, force: bool) -> Corruptions:
    """What there is of a network already, if it was measured by the same libraries, weights and images; else empty."""
    fresh = Corruptions(
        record=record.where,
        config=record.as_config().digest(),
        weights=sha256(Path(weights).read_bytes()).hexdigest(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        made_by={name: version(name) for name in LIBRARIES},
        images=images,
        pixels={},
        measurements=(),
    )
    if force or not path.is_file():
        return fresh
    there = judge.read(path, record)
    return there if replace(there, pixels={}, measurements=()) == fresh else fresh


@torch.no_grad()
@float32()
def _measurement(column: str, attack: dict, model: nn.Module, images: np.ndarray, labels: torch.Tensor) -> Measurement:
    device = next(model.parameters()).device
    correct = []
    with eval_mode(model):
        for x, y in zip(torch.from_numpy(images).split(BATCH), labels.split(BATCH), strict=True):
            correct.append((predictions(model, to_pixels(x.to(device))).cpu() == y).numpy())
    return Measurement(f"corrupted:{column}", column, attack, len(images), pack_mask(np.concatenate(correct)))


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Whatever is drawn inside, Python's, numpy's and torch's global generators come back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
