"""Images made on one row's network and shown to the others: none may fool what the white box does not.

A white-box attack knows the network and so should find whatever images from elsewhere find. Where transferred images
do better, the network's own gradient has led the attack astray (Athalye et al. 2018, section 3.1; Papernot et al. 2017
is how such a network was first broken). :mod:`masking.judge` asks; what is measured here is added to the probes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from advlib.attacks import eval_mode, predictions
from study.data.pixels import to_pixels
from study.evidence.comparisons import STRONG
from study.experiment.evaluate import make_images
from study.experiment.network import Network
from study.experiment.precision import float32
from study.findings.masking.probes import FROM, Probe
from study.machine.progress import progress
from study.plan.attacks import PGD_20
from study.records import Measurement

# at the last step and once: an image that no longer fools its own network is stopped too early for another
SENT = replace(PGD_20, rule="probe", restarts=1, stop="last-step")


def measure(networks: Sequence[Network], results: Path) -> Iterator[str]:
    """Add to each network's probe what it makes of the images of all others, in the place of what they had of these.

    The images are the first that every probe has. Raises ValueError unless all were probed, on the same images and with
    the weights that are here.
    """
    probes = [Probe.read(Path(results) / one.record.where / Probe.FILE, one.record, one.digest) for one in networks]
    sizes = {probe.images for probe in probes}
    sources = {one.record.data["checksum"] for one in networks}
    if len(networks) < 2 or len(sizes) > 1 or len(sources) > 1:
        raise ValueError(
            f"transfer needs two networks or more that were probed on the same images, and here are {len(networks)}, "
            f"on {sorted(sizes) or 'no'} images of {len(sources)} data sets: first measure each, with the same "
            f"--images: {'; '.join(Probe.command(one.record) for one in networks)}"
        )
    images, labels = networks[0].first(sizes.pop(), 0)
    right = among(
        {one.record.where: one.model for one in networks},
        to_pixels(images),
        labels,
        seeds={one.record.where: one.record.seed for one in networks},
    )
    for target, probe in zip(networks, probes, strict=True):
        others = [one for one in networks if one is not target]
        seen = {one: right[one.record.where, target.record.where] for one in others}
        made = {measurement.name: measurement for measurement in (_measurement(*one) for one in seen.items())}
        kept = tuple(measurement for measurement in probe.measurements if measurement.name not in made)
        probe = replace(probe, measurements=(*kept, *made.values()))
        probe.write(results, target.record)
        yield _said(target.record.key, probe, {one.record.key: mask.cpu().numpy() for one, mask in seen.items()})


@float32()
def among(
    models: Mapping[str, nn.Module], x: Tensor, y: Tensor, *, seeds: Mapping[str, int]
) -> dict[tuple[str, str], Tensor]:
    """(source, target) -> bool (B,): which images made on ``source`` the ``target`` gets right."""
    right = {}
    for source, model in progress(models.items(), desc="transfer", unit="network"):
        generator = torch.Generator(x.device).manual_seed(seeds[source])
        with eval_mode(model):
            shown = make_images(model, x, y, SENT, generator)
        for target, other in models.items():
            with eval_mode(other):
                right[source, target] = predictions(other, shown) == y
    return right


def _measurement(source: Network, right: Tensor) -> Measurement:
    made_by = {name: source.about(0)["provenance"][name] for name in ("commit", "dirty", "versions", "device")}
    from_there = {"source": source.record.where, "source_weights": source.digest, "made_by": made_by}
    name, attack = f"probe:{FROM}{source.record.where}", SENT.specification | from_there
    return Measurement.of(name, SENT.column, attack, right.cpu().numpy())


def _said(key: str, probe: Probe, seen: Mapping[str, np.ndarray]) -> str:
    clean = probe.mask("clean")
    left = {source: float((mask & clean).mean()) for source, mask in seen.items()}
    worst = min(left, key=left.get)
    return (
        f"{key}: {100 * (probe.mask(STRONG) & clean).mean():.1f} % right without attack and under its white box, "
        f"{100 * left[worst]:.1f} % under images made on {worst}, the worst of {len(left)}"
    )
