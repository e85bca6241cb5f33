"""Write the true classes of a data set's test images beside its records, for views by class: numbers, no images.

python tools/write_labels.py --budget lite --dataset cifar10-jpeg
"""

import argparse
import json

from study.data import load
from study.evidence.selection import LABELS
from study.machine.folders import results_folder, write_whole
from study.plan import catalogue
from study.records import run_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="lite")
    parser.add_argument("--dataset", default="cifar10-jpeg")
    options = parser.parse_args()
    config = catalogue.config("traditional", budget=options.budget, dataset=options.dataset)
    dataset = load(config.dataset).subset(config.train_size, config.test_size)
    where = run_folder(options.budget, options.dataset, "any", "any", 0)
    path = results_folder() / where.split("/")[0] / where.split("/")[1] / LABELS
    labels = " ".join(str(label) for label in dataset.test_labels.tolist())
    write_whole(path, json.dumps({"checksum": dataset.checksum, "labels": labels}, indent=1) + "\n")
    print(f"{path.name}: {len(dataset.test_labels):,} labels of {dataset.title}")


if __name__ == "__main__":
    main()
