"""The golden runs: what tiny trainings on the CPU give, kept in ``golden.json`` beside the science version they belong to.

``python tests/golden.py`` computes them again and writes the file. Results that changed are written only under another
science version: raise ``SCIENCE_VERSION`` in ``advlib/records.py`` first, as every record made before is then stale.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from advlib import catalogue, records, run

FILE = Path(__file__).with_name("golden.json")
RUNS = [(key, protocol) for key in ("adversarial", "als-sat-advprop") for protocol in ("published", "corrected")]
# Few steps and a small rate: what another processor rounds differently must not grow into another result.
SIZE = dict(train_size=320, test_size=100, sweep_size=50, width=6, epochs=2, batch_size=64, lr=0.02, precision="float32")
LOSS_TOLERANCE = 2e-3
MASK_TOLERANCE = 0.02


def compute(key: str, protocol: str) -> dict:
    """Curve and masks of one tiny run, in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = catalogue.config(key, protocol=protocol, budget="smoke", **SIZE)
        record = run.run(config, key=key, protocol=protocol, budget="smoke", device="cpu").record
    finally:
        torch.set_num_threads(threads)
    curve = [{name: round(entry[name], 5) for name in entry if name != "seconds"} for entry in record.curve]
    return {"curve": curve, "masks": {m.name: [m.n, m.correct] for m in record.measurements}}


def differences(then: dict, now: dict) -> list[str]:
    """What differs between two results of one run, beyond rounding; measurements that only one of them has are no matter."""
    found = []
    if len(then["curve"]) != len(now["curve"]):
        found.append(f"{len(then['curve'])} epochs, now {len(now['curve'])}")
    for before, after in zip(then["curve"], now["curve"], strict=False):
        for name in before:
            tolerance = MASK_TOLERANCE if name.endswith("accuracy") else LOSS_TOLERANCE if name == "loss" else 1e-5
            if abs(before[name] - after[name]) > tolerance:
                found.append(f"epoch {before['epoch']}: {name} {before[name]}, now {after[name]}")
    for name in then["masks"].keys() & now["masks"].keys():
        (n, before), (m, after) = then["masks"][name], now["masks"][name]
        if n != m:
            found.append(f"{name}: {n} images, now {m}")
            continue
        changed = (records.unpack_mask(before, n) != records.unpack_mask(after, n)).mean()
        if changed > MASK_TOLERANCE:
            found.append(f"{name}: another outcome for {changed:.0%} of the images")
    return sorted(found)


def stored() -> dict:
    return json.loads(FILE.read_text())


def main() -> int:
    results = {f"{key}, {protocol}": compute(key, protocol) for key, protocol in RUNS}
    if FILE.exists() and stored()["science_version"] == records.SCIENCE_VERSION:
        changed = [f"{name}: {what}" for name in results for what in differences(stored()["runs"][name], results[name])]
        if changed:
            print("Results changed:", *changed, sep="\n  ")
            print("If they are meant to, raise SCIENCE_VERSION in advlib/records.py, then run this again.")
            return 1
    FILE.write_text(json.dumps({"science_version": records.SCIENCE_VERSION, "runs": results}, indent=1) + "\n")
    accuracy = {name: np.mean([records.unpack_mask(mask, n).mean() for n, mask in r["masks"].values()]) for name, r in results.items()}
    print(f"wrote {FILE.name}, science version {records.SCIENCE_VERSION}: mean accuracy {accuracy}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
