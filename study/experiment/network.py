"""A record's network at hand: its weights, the data that it saw, and what a file beside the record says of both."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

from advlib.resnet import resnet18
from study import records
from study.data import Dataset, load
from study.experiment.build import device_or_best, placed
from study.experiment.controls import NORMS
from study.experiment.provenance import provenance
from study.experiment.weights import described, load_weights
from study.machine.folders import work_folder
from study.records import Record


@dataclass(frozen=True, eq=False)
class Network:
    """The network of ``record``, whose weights are in the file ``weights``."""

    record: Record
    weights: Path

    def refuse_missing(self) -> None:
        """Raises ValueError, with the remedy, unless the file of weights is there."""
        if not Path(self.weights).is_file():
            raise ValueError(f"{self.weights} is not there: {self._remedy}")

    def refuse_others(self) -> int:
        """How many channels its images have. ValueError, with the remedy, if the weights there are not the record's."""
        about, channels = described(self.weights)
        if (of := about.get("record", self.record.where)) != self.record.where:
            raise ValueError(f"{self.weights} has the weights of {of}: {self._remedy}")
        return channels

    @property
    def _remedy(self) -> str:
        own = work_folder(self.record.where) / "model.safetensors"
        return f"name the weights of {self.record.where} with --weights; a run leaves its own at {own}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file of weights."""
        return sha256(Path(self.weights).read_bytes()).hexdigest()

    @cached_property
    def device(self) -> torch.device:
        return device_or_best(None)

    @cached_property
    def model(self) -> nn.Module:
        """The network with true gradients, in evaluation mode, on the device.

        Raises ValueError, with the remedy, if the file is damaged, or has the weights of another record.
        """
        own = self.record.config["activation"]
        return self._loaded("relu" if own == "surrogate-relu" else own)

    @cached_property
    def gradients(self) -> dict[str, nn.Module]:
        """The network by the gradient that an attack reads: "true", and "surrogate" if it was trained with that."""
        own = self.record.config["activation"]
        return {"true": self.model} | ({"surrogate": self._loaded(own)} if own == "surrogate-relu" else {})

    def _loaded(self, activation: str) -> nn.Module:
        channels = self.refuse_others()
        config = self.record.as_config()
        classes, alpha = len(self.record.data["classes"]), config.activation_alpha
        model = resnet18(classes, config.width, activation, NORMS[config.norm], channels, activation_alpha=alpha)
        return placed(load_weights(model, self.weights), self.device)

    @property
    def dataset(self) -> Dataset:
        """The data that the record is of. Raises ValueError if those here are others, and what loading them raises."""
        found = shared(self.record.config["dataset"])
        if found.checksum != self.record.data["checksum"]:
            raise ValueError(f"{self.record.where} is of other data than {found.name!r} here: their checksums differ")
        return found

    def count(self, images: int | None, usual: int) -> int:
        """How many test images to measure on: as many as are asked for, else the ``usual`` number, or all that the
        record was tested on if those are fewer. Raises ValueError if more are asked for, or fewer than one.
        """
        most = self.record.measurement("corrected:clean").n
        return images_of(images, most, f"{self.record.where} was tested on {most}") or min(usual, most)

    def first(self, images: int | None, usual: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first test images, uint8 (n, C, H, W), and their labels, on the device. As many as :meth:`count` says."""
        n = self.count(images, usual)
        return self.dataset.test_images[:n].to(self.device), self.dataset.test_labels[:n].to(self.device)

    def about(self, images: int) -> dict:
        """What every file beside the record says of whose network it is, and of what measured it."""
        return {
            "record": self.record.where,
            "record_digest": records.digest(self.record),
            "weights": self.digest,
            "provenance": provenance(self.device, None),
            "images": images,
        }


def refuse_single(networks: Iterable[Network]) -> None:
    """Raises ValueError, naming them, unless each has two batch norms a layer, a branch each."""
    if single := [one.record.key for one in networks if one.record.config["norm"] in ("shared", "dual-affine")]:
        raise ValueError(f"trained without AdvProp, with one batch norm a layer: {', '.join(single)}: leave them out")


def images_of(images: int | None, most: int, why: str) -> int | None:
    """``images``, if there are as many. Raises ValueError if not, or if fewer than one are asked for."""
    if images is not None and not 1 <= images <= most:
        raise ValueError(f"{images} images are asked for, and {why}: ask for 1 to {most}")
    return images


@lru_cache(maxsize=1)
def shared(name: str) -> Dataset:
    """The data of that name: one copy for all networks that a command measures."""
    return load(name)
