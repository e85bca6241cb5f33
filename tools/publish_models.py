"""Put trained models of finished runs into ``models/``: half-precision weights and a model card, both from the record.

    python tools/publish_models.py traditional adversarial advprop --budget lite --dataset cifar10-jpeg

The weights are those that the run left in its scratch folder. Where it is gone, ``--retrain`` trains the network again
and publishes it if every number of its training, and its verdict on every clean and FGSM image, are the record's.
"""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from study import records
from study.experiment.evaluate import Attack, evaluate
from study.experiment.network import Network
from study.experiment.retrain import retrain
from study.experiment.weights import save_weights
from study.machine.folders import WEIGHTS, project_folder, results_folder, work_folder, writing
from study.plan import catalogue
from study.records.beside import SAME_NETWORK

WITNESSES = 1_000  # test images at most by which a network is known
CARD = """# {label}: `{key}`, {protocol} protocol, budget {budget}, seed {seed}

ResNet-18 of width {width}, images of 32x32, {classes} classes; {images:,} training images of {title}, {epochs} epochs.
What was measured: [`{place}/record.json`](../{place}/record.json).
How: [the notebook](../{place}/run.ipynb).

| test images | clean | FGSM 0.1 | PGD 0.1 | PGD-20 8/255 |
|---|---|---|---|---|
| {n:,} | {clean} | {fgsm} | {pgd} | {strong} |

Accuracy in percent under the corrected rule. The weights are rounded to 16 bits; load them by
`study.experiment.weights.load_model("models/{key}.safetensors")`. A small network, briefly trained: for looking at, not
for use.
Code under MIT, weights under CC BY 4.0.
"""


def publish(record: records.Record, folder: Path, weights: Path) -> Path:
    """Write ``folder/<key>.safetensors`` and ``folder/<key>.md``; returns the first.

    A process that dies on the way leaves weights with their own card or with none, and the next one completes them.
    Raises ValueError, and writes nothing, unless these weights see the test images as the record says.
    """
    network, said = Network(record, weights), card(record)
    images, labels = network.first(None, WITNESSES)
    clean = Attack("clean", "corrected", method="none")
    (found,) = evaluate({"true": network.model}, images, labels, [clean], sweep_size=len(images))
    agreement = (found.mask == record.measurement(clean.name).mask[: found.n]).mean()
    if not agreement >= SAME_NETWORK:
        raise ValueError(f"{weights} are not of {record.where}: they agree on {agreement:.1%} of images; use --retrain")
    with writing(folder), TemporaryDirectory(prefix=".new-", dir=folder) as new:
        path = save_weights(network.model, Path(new, f"{record.key}.safetensors"), record, torch.float16)
        about = path.with_suffix(".md")
        about.write_text(said)
        (folder / about.name).unlink(missing_ok=True)  # an older card never stands beside these weights
        os.replace(path, folder / path.name)
        os.replace(about, folder / about.name)
    return folder / path.name


def card(record: records.Record) -> str:
    """The model card, every number from the record."""
    columns = {"clean": "clean", "fgsm": "fgsm-0.1", "pgd": "pgd-0.1", "strong": "pgd-20-8/255"}
    measured = {name: record.measurement(f"corrected:{column}") for name, column in columns.items()}
    return CARD.format(
        label=catalogue.experiments()[record.key].label,
        key=record.key,
        protocol=record.protocol,
        budget=record.budget,
        seed=record.seed,
        width=record.config["width"],
        epochs=record.config["epochs"],
        classes=len(record.data["classes"]),
        images=record.data["train_images"],
        title=record.data["title"],
        place=f"results/{record.where}",
        n=measured["clean"].n,
        **{name: f"{100 * measurement.accuracy:.1f}" for name, measurement in measured.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keys", nargs="+")
    parser.add_argument("--budget", default="lite")
    parser.add_argument("--dataset", default="cifar10-jpeg")
    parser.add_argument("--retrain", action="store_true", help="train those again whose weights are gone")
    options = parser.parse_args()
    folder = project_folder() / "models"
    folder.mkdir(exist_ok=True)
    for key in options.keys:
        where = records.run_folder(options.budget, options.dataset, "corrected", key, 0)
        record = records.read(results_folder() / where / "record.json")
        weights = work_folder(where) / WEIGHTS
        if options.retrain and not weights.is_file():
            retrain(record, work=weights.parent)
        path = publish(record, folder, weights)
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
