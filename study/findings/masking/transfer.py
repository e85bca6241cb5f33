"""Images made on one row's network and shown to the others: none may fool what the white box does not.

A white-box attack knows the network and so should find whatever images from elsewhere find. Where transferred images
do better, the network's own gradient has led the attack astray (Athalye et al. 2018, section 3.1; Papernot et al. 2017
is how such a network was first broken). :mod:`masking.judge` asks; what is measured here is added to the probes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from advlib.attacks import eval_mode, predictions
from study.data import load
from study.data.pixels import to_pixels
from study.experiment.evaluate import PGD_20, make_images
from study.experiment.precision import float32
from study.experiment.weights import network
from study.findings.masking.probes import FROM, Probe
from study.machine.progress import progress
from study.records import Measurement, Record
from study.records.packing import pack_mask

# at the last step and once: an image that no longer fools its own network is stopped too early for another
SENT = replace(PGD_20, rule="probe", restarts=1, stop="last-step")


def transfer(
    networks: Sequence[tuple[Record, Path, Probe]],
    *,
    provenance: Callable[[torch.device], dict],
    root: Path | None = None,
) -> list[Probe]:
    """The probes with what every network makes of the images of all others; what was there of such is replaced.

    networks: a record, the file of its weights, its probe. The images are the first that every probe has. provenance:
    device -> what makes this.

    Raises ValueError unless all are of the same data and number of images, or if a probe is of other weights.
    """
    sizes = {probe.images for _, _, probe in networks}
    sources = {record.data["checksum"] for record, _, _ in networks}
    if len(networks) < 2 or len(sizes) > 1 or len(sources) > 1:
        raise ValueError(
            f"transfer needs two networks or more that were probed on the same images, and here are {len(networks)}, "
            f"on {sorted(sizes) or 'no'} images of {len(sources)} data sets: first `python -m study probe` each"
        )
    digests = {record.where: sha256(Path(weights).read_bytes()).hexdigest() for record, weights, _ in networks}
    for record, weights, probe in networks:
        if digests[record.where] != probe.weights:
            raise ValueError(
                f"{record.where} was probed with other weights than {weights}: name their folder with --models, or "
                "probe it again"
            )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset, (n,) = load(networks[0][0].config["dataset"], root=root), sizes
    if {dataset.checksum} != sources:
        raise ValueError(f"the records are of other data than {dataset.name!r} here: their checksums differ")
    x, y = to_pixels(dataset.test_images[:n].to(device)), dataset.test_labels[:n].to(device)
    models = {
        record.where: network(record, weights).to(device, memory_format=torch.channels_last)
        for record, weights, _ in networks
    }
    origin = provenance(device)
    made_by = {name: origin[name] for name in ("commit", "dirty", "versions", "device")}
    right = among(models, x, y, seeds={record.where: record.seed for record, _, _ in networks})
    return [
        replace(
            probe,
            measurements=tuple(m for m in probe.measurements if FROM not in m.name)
            + tuple(
                _measurement(source, digests[source], made_by, right[source, record.where])
                for source in digests
                if source != record.where
            ),
        )
        for record, _, probe in networks
    ]


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


def _measurement(source: str, weights: str, made_by: dict, right: Tensor) -> Measurement:
    attack = {name: value for name, value in asdict(SENT).items() if name != "also_after"}
    attack |= {"source": source, "source_weights": weights, "made_by": made_by}
    return Measurement(f"probe:{FROM}{source}", SENT.column, attack, len(right), pack_mask(right.cpu().numpy()))
