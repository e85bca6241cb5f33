"""Question 7: how many verdicts change where a GPU's convolutions round what they multiply to TensorFloat-32?"""

from collections.abc import Sequence

from torch import Tensor, nn

from benchmarks.race import ROOT
from study import records
from study.experiment.evaluate import evaluate
from study.experiment.network import Network
from study.machine.folders import WEIGHTS, work_folder
from study.plan.attacks import PAPER_COLUMNS, PGD_20, Attack

KEYS = ("adversarial", "advprop")  # a campaign brings their weights
RECORDS = ROOT / "results" / "brief" / "cifar10-jpeg" / "corrected"
STRONG_IMAGES = 512  # that PGD-20 gets


def question(images: int = 2_000) -> list[dict]:
    """:func:`changed` of the networks of a budget that is measured so; their weights are in the scratch folder."""
    found = []
    for key in KEYS:
        record = records.read(RECORDS / key / "seed0" / "record.json")
        network = Network(record, work_folder(record.where) / WEIGHTS)
        network.refuse_missing()
        lines = changed(
            network.model, *network.first(images, images), [*PAPER_COLUMNS, PGD_20], strong_size=STRONG_IMAGES
        )
        found += [{"network": key, **line} for line in lines]
    return found


def changed(
    model: nn.Module, images: Tensor, labels: Tensor, attacks: Sequence[Attack], strong_size: int
) -> list[dict]:
    """By attack: of how many images, how many are judged otherwise than in float32, and how many more are right."""
    how = {"sweep_size": len(images), "strong_size": strong_size}
    exact, rounded = (
        evaluate({"true": model}, images, labels, list(attacks), tf32=tf32, **how) for tf32 in (False, True)
    )
    return [
        {
            "attack": then.name,
            "images": then.n,
            "changed": int((now.mask != then.mask).sum()),
            "more": int(now.mask.sum() - then.mask.sum()),
        }
        for then, now in zip(exact, rounded, strict=True)
    ]
