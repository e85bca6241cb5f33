"""Corruptions measured: test images spoilt by ``imagecorruptions``, and what trained networks make of them.

The library is imagecorruptions-imaug, the maintained fork of the package of Michaelis et al. (2019), which is made from
the code of Hendrycks and Dietterich (2019). It draws from numpy's global generator: each kind and severity is seeded by
its own name, so every network sees the same images, and the generators are left as they were.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from advlib.attacks import eval_mode, predictions
from study.data import Dataset
from study.data.pixels import to_pixels
from study.experiment.network import Network
from study.experiment.precision import float32
from study.findings.corruptions import judge
from study.findings.corruptions.judge import EXAMPLES, KINDS, SEVERITIES, SMALLEST, Corruptions
from study.machine.progress import progress
from study.records import Measurement, Record, packing
from study.records.packing import pack_mask

IMAGES = 500  # of the test set
BATCH = 250
LIBRARIES = ("imagecorruptions-imaug", "numpy", "scipy", "scikit-image", "opencv-python-headless", "numba", "pillow")
SHOWN = 1  # which test image the book shows spoilt
SHOWN_AT = 3  # and how severely
Corrupt = Callable[..., np.ndarray]


def measure(
    networks: Sequence[Network],
    results: Path,
    images: int | None = None,
    *,
    kinds: Sequence[str] = KINDS,
    anew: bool = False,
) -> Iterator[str]:
    """Show all networks the same spoilt images, write a file beside the record of each, and say what was found.

    One more file of the data set shows an image spoilt in every way. Kinds that a file has already are kept, unless all
    is to be made ``anew``; it grows by one kind at a time, so a command that was killed goes on where it was.

    Raises ValueError on an unknown kind, on records of several data sets, on data that are not the records' or too
    small, and on a file that cannot be gone on from; ImportError without the library.
    """
    kinds, spoil = judge.check_kinds(kinds), library()
    if len(names := sorted({one.record.config["dataset"] for one in networks})) != 1:
        raise ValueError(f"records of {len(names)} data sets ({', '.join(names)}): give those of one at a time")
    found = [_begun(one, results, images, anew) for one in networks]
    if len(sizes := sorted({one.images for one in found})) != 1:
        raise ValueError(f"files of {' and '.join(map(str, sizes))} images: ask for --images, and --anew where need be")
    clean, _ = networks[0].first(found[0].images, 0)
    for kind in progress(kinds, desc="corruptions"):
        missing = [k for k, one in enumerate(found) if kind not in one.pixels]
        if missing:
            spoilt = {severity: corrupted(clean.cpu().numpy(), kind, severity, spoil) for severity in SEVERITIES}
        for k in missing:
            found[k] = _with(found[k], networks[k], kind, spoilt)
            found[k].write(results, networks[k].record)
    write_examples(networks[0].dataset, examples_path(results, networks[0].record))
    for one in found:
        mean = sum(m.accuracy for m in one.measurements[1:]) / (len(one.measurements) - 1)
        yield (
            f"{one.record}/{one.FILE}: of {one.images} images {100 * one.mask('clean').mean():.1f} % right as they "
            f"are, {100 * mean:.1f} % in the mean of {len(one.pixels)} corruptions at each severity"
        )


def _begun(network: Network, results: Path, images: int | None, anew: bool) -> Corruptions:
    """What there is of a network already, or a beginning.

    Raises ValueError if what there is was measured by other libraries, with other weights or on other images.
    """
    made_by = {name: version(name) for name in LIBRARIES}
    if there := Corruptions.begun(results, network.record, network.digest, images, anew):
        if there.made_by != made_by:
            path = Path(results) / there.record / there.FILE
            raise ValueError(f"{path} was made by other versions of {', '.join(made_by)}: begin again with --anew")
        return there
    clean = _measurement("clean", {"method": "none"}, network, network.first(images, IMAGES)[0].cpu().numpy())
    return Corruptions(**network.about(clean.n), measurements=(clean,), made_by=made_by, pixels={})


def _with(found: Corruptions, network: Network, kind: str, spoilt: Mapping[int, np.ndarray]) -> Corruptions:
    """``found`` and one kind more. spoilt: severity -> images, uint8 (n, C, H, W)."""
    digest = sha256(b"".join(pixels.tobytes() for pixels in spoilt.values())).hexdigest()[:16]
    measured = [_measurement(f"{kind}-{s}", how(kind, s), network, pixels) for s, pixels in spoilt.items()]
    return replace(found, pixels=found.pixels | {kind: digest}, measurements=(*found.measurements, *measured))


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


@torch.no_grad()
@float32()
def _measurement(column: str, attack: dict, network: Network, images: np.ndarray) -> Measurement:
    labels, correct = network.dataset.test_labels[: len(images)], []
    with eval_mode(network.model) as model:
        for x, y in zip(torch.from_numpy(images).split(BATCH), labels.split(BATCH), strict=True):
            correct.append((predictions(model, to_pixels(x.to(network.device))).cpu() == y).numpy())
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
