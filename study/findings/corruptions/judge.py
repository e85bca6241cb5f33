"""Corruptions: what networks make of images spoilt by noise, blur, weather and digital processing. No torch.

The kinds are those of Hendrycks and Dietterich (2019), table 1 and appendix B: fifteen common corruptions in four
groups, and extra ones, each at five severities. :mod:`corruptions.measure` measures; here is what it leaves beside a
record, and what follows from it. Nothing attacks: no gradient is asked for, and a corruption does not know the network.

The images are spoilt by a library with the constants of ImageNet-C, which were made for 224 pixels. CIFAR-10-C has
milder ones. So a network's number here is not its number on CIFAR-10-C; networks are compared on the same images.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from study.evidence import comparisons, estimates
from study.evidence.estimates import Estimate, Spread
from study.evidence.selection import Group, runs_of
from study.plan import catalogue
from study.plan.config import did_you_mean
from study.records import Record
from study.records.beside import Beside

GROUPS = {  # the common corruptions, as the authors sort them
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
COMMON = tuple(kind for kinds in GROUPS.values() for kind in kinds)  # what a mean corruption accuracy is the mean of
# The authors' fourth extra kind, spatter, is left out: where no drop falls on an image, the library divides 0 by 0.
EXTRA = ("speckle_noise", "gaussian_blur", "saturate")
KINDS = COMMON + EXTRA
SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32  # pixels a side: the library takes no smaller image
EXAMPLES = "corrupted-images.json"  # beside the protocols of a data set


@dataclass(frozen=True, kw_only=True)
class Corruptions(Beside):
    """Which images a network gets right when they are spoilt: complete, or as far as it came.

    Its measurements: "corrupted:clean", then "corrupted:fog-3" for each kind and severity.
    """

    FILE = "corruptions.json"
    KIND = "corruptions"

    made_by: Mapping[str, str]  # the library that spoils the images, and those that it computes with: name -> version
    pixels: Mapping[str, str]  # kind -> digest of its spoilt images: two networks saw the same ones, or did not

    def mask(self, column: str) -> np.ndarray:
        """bool (n,): which images stayed right, "clean" or such as "fog-3". KeyError if it was not measured."""
        return super().mask(f"corrupted:{column}")

    @property
    def complete(self) -> bool:
        """Whether all common corruptions are there."""
        return set(COMMON) <= set(self.pixels)

    def witnesses(self) -> Mapping[str, str]:
        return {"clean": "corrected:clean"}

    def check(self) -> None:
        super().check()
        measured = {measurement.column for measurement in self.measurements}
        if absent := {f"{kind}-{severity}" for kind in self.pixels for severity in SEVERITIES} - measured:
            raise ValueError(f"it lacks {min(absent)}")


@dataclass(frozen=True)
class Network:
    """A row under a protocol, and what was measured of its trainings, in the order of their seeds."""

    key: str
    protocol: str
    measured: tuple[Corruptions, ...]
    records: tuple[Record, ...]
    spread: Spread | None = None  # of trainings of these sizes, on clean images: the nearest that several seeds show

    @property
    def row(self) -> catalogue.Row:
        return catalogue.rows()[self.key]

    def masks(self, kinds: Iterable[str], severities: Iterable[int] = SEVERITIES) -> list[np.ndarray]:
        """A mask (S, n) for each kind and severity."""
        columns = [f"{kind}-{severity}" for kind in kinds for severity in severities]
        return [np.array([found.mask(column) for found in self.measured]) for column in columns]

    @property
    def clean(self) -> list[np.ndarray]:
        """The mask (S, n) of the images as they are, as :meth:`masks` has it."""
        return [np.array([found.mask("clean") for found in self.measured])]


def check_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds in their own order. Raises ValueError on one that is unknown, with the nearest name."""
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"unknown corruption {kind!r}: {did_you_mean(kind, KINDS)}choose among {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)


def networks(root: Path, group: Group) -> list[Network]:
    """Every row and protocol of ``group`` that was measured on all common corruptions, in the order of the paper.

    Raises ValueError if two of them saw other images, or other numbers of them: they cannot be compared.
    """
    found, spread = [], comparisons.spread(group, "corrected:clean")
    for key in catalogue.distinct():
        for protocol in dict.fromkeys(record.protocol for record in group if record.key == key):
            runs = {record.where: record for record in runs_of(group, key, protocol)}
            there = Corruptions.collect(root, runs.values())
            both = [(measured, runs[where]) for where, measured in there.items() if measured.complete]
            if both:
                found.append(Network(key, protocol, *zip(*both, strict=True), spread))
    everything = [both for network in found for both in zip(network.measured, network.records, strict=True)]
    for other in everything[1:]:
        _refuse_other_images(everything[0], other)
    return found


def accuracy(masks: Sequence[np.ndarray], confidence: float = 0.95) -> Estimate:
    """The mean accuracy over ``masks`` (S, n), each of the same images spoilt in another way.

    The interval is over images, and an image's outcomes under all corruptions are drawn together: five severities of
    fog on one image are not five images. From three seeds on, it knows the trainings' spread too.
    """
    share = 0.5 / len(masks)  # right minus wrong, halved: of an image in [-0.5, 0.5], as its two ends have to be
    centred = estimates.contrast({share: masks, -share: [~mask for mask in masks]}, confidence)
    low, high = max(centred.low + 0.5, 0.0), min(centred.high + 0.5, 1.0)
    return Estimate(centred.value + 0.5, low, high, centred.n, centred.seeds)


def difference(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], confidence: float = 0.95, spread: Spread | None = None
) -> Estimate:
    """Mean accuracy over the masks of ``a`` minus that over those of ``b``: paired by image, and by seed.

    All masks of a network are of the same trainings, so its mean is one accuracy of these to ``spread``.
    """
    return estimates.difference(np.mean(a, axis=0), np.mean(b, axis=0), confidence, spread)


def compared(
    networks: Sequence[Network], network: Network, key: str, kinds: Iterable[str] = COMMON, confidence: float = 0.95
) -> Estimate | None:
    """Accuracy of ``network`` minus that of the row ``key`` under the same protocol, over ``kinds``.

    None for the row itself, if it was not measured, or if the two share no seed.
    """
    others = [other for other in networks if (other.key, other.protocol) == (key, network.protocol)]
    if network.key == key or not others:
        return None
    seeds = {record.seed for record in network.records} & {record.seed for record in others[0].records}
    if not seeds:
        return None
    kinds = tuple(kinds)
    masks = [_of_seeds(one, seeds).masks(kinds) for one in (network, others[0])]
    return difference(*masks, confidence, network.spread)


def _of_seeds(network: Network, seeds: set[int]) -> Network:
    kept = [pair for pair in zip(network.measured, network.records, strict=True) if pair[1].seed in seeds]
    return replace(network, **dict(zip(("measured", "records"), zip(*kept, strict=True), strict=True)))


def _refuse_other_images(a: tuple[Corruptions, Record], b: tuple[Corruptions, Record]) -> None:
    (first, of_first), (other, of_other) = a, b
    differ = [kind for kind in first.pixels.keys() & other.pixels.keys() if first.pixels[kind] != other.pixels[kind]]
    if first.images != other.images or differ:
        what = f"{first.images} and {other.images} images" if first.images != other.images else ", ".join(differ)
        raise ValueError(
            f"{other.record} and {first.record} were measured on other corrupted images ({what}): measure both with "
            f"one library: {Corruptions.command(of_first)} --anew; {Corruptions.command(of_other)} --anew"
        )
