"""The golden runs: what tiny float32 trainings on the CPU give, kept in ``golden.json`` beside their science version.

``python tests/golden.py`` computes them again and writes the file. A run whose config is another is written anew, as
records of the old config are stale by themselves. Results of the same config that changed are written only under
another science version: raise ``SCIENCE_VERSION`` in ``study/records`` first, as every record is then stale.

Adversarial training is chaotic in float32: the sign of a gradient that is nothing but rounding moves a pixel all the
way, so another processor or torch gives other masks after four updates. Where arithmetic is to the bit that of the
machine that wrote the file, the comparison is therefore strict; elsewhere it allows for what machines may differ by.
"""

import hashlib
import json
import sys
from pathlib import Path
from unittest import mock

import miniature
import numpy as np
import torch
from torch import nn

from study import records
from study.experiment import run
from study.plan import catalogue
from study.plan.config import SINCE, Config
from study.records import packing

FILE = Path(__file__).with_name("golden.json")
RUNS = [(key, protocol) for key in ("adversarial", "als-sat-advprop") for protocol in ("published", "corrected")]
SIZE = {"test_size": 0, "sweep_size": 20, "width": 8, "epochs": 2, "batch_size": 64, "lr": 0.01, "precision": "float32"}
LOSS, LOSS_ELSEWHERE = 1e-3, 0.1
IMAGES, IMAGES_ELSEWHERE = 0.02, 0.2  # share of outcomes that may differ: per measurement; elsewhere, of all together


def compute(key: str, protocol: str) -> dict:
    """Curve and masks of one tiny run, in one thread."""
    data = miniature.dataset(train_size=128, test_size=64, size=16)
    config = catalogue.config(key, protocol=protocol, budget="smoke", **SIZE)
    with mock.patch.object(run, "load", lambda name: data), one_thread():
        record = run.run(config, key=key, protocol=protocol, budget="smoke", device="cpu").record
    curve = [{name: round(entry[name], 5) for name in entry if name != "seconds"} for entry in record.curve]
    masks = {m.name: [m.n, m.correct, specification(m)] for m in record.measurements}
    return {"config": digest(config), "arithmetic": arithmetic(), "curve": curve, "masks": masks}


def digest(config: Config) -> str:
    """It changes with any field; a field that is newer than the golden runs, and as it was then, changes nothing."""
    told = {name: value for name, value in config.to_dict().items() if SINCE.get(name, ...) != value}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def specification(measurement: records.Measurement) -> str:
    """A digest of the attack's every parameter: a change must be noticed even where it changes no mask."""
    return hashlib.sha256(json.dumps(measurement.attack, sort_keys=True).encode()).hexdigest()[:8]


def differences(then: dict, now: dict, *, strict: bool) -> list[str]:
    """What differs between two results of one run, beyond rounding; measurements that only one has are no matter."""
    found = []
    if len(then["curve"]) != len(now["curve"]):
        found.append(f"{len(then['curve'])} epochs, now {len(now['curve'])}")
    tolerance = {"loss": LOSS if strict else LOSS_ELSEWHERE, "lr": 1e-5, "epoch": 0}
    for before, after in zip(then["curve"], now["curve"], strict=False):
        for name in before:
            if abs(before[name] - after[name]) > tolerance.get(name, IMAGES if strict else IMAGES_ELSEWHERE):
                found.append(f"epoch {before['epoch']}: {name} {before[name]}, now {after[name]}")
    changed = {}
    for name in sorted(then["masks"].keys() & now["masks"].keys()):
        (n, before, attack), (m, after, attack_now) = then["masks"][name], now["masks"][name]
        if attack != attack_now:
            found.append(f"{name}: another attack")
        if n != m:
            found.append(f"{name}: {n} images, now {m}")
        else:
            changed[name] = (packing.unpack_mask(before, n) != packing.unpack_mask(after, n)).mean()
    if strict:
        found += [
            f"{name}: another outcome for {share:.0%} of the images"
            for name, share in changed.items()
            if share > IMAGES
        ]
    elif np.mean(list(changed.values())) > IMAGES_ELSEWHERE:
        found.append(f"another outcome for {np.mean(list(changed.values())):.0%} of all images")
    return found


def arithmetic() -> str:
    """How this machine and torch round, as a digest: random numbers, convolutions and batch norm, both ways."""
    with torch.random.fork_rng(), one_thread():
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 64, 1, 4), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(256, 10), nn.LogSoftmax(1)),
        ).to(memory_format=torch.channels_last)
        x = torch.rand(64, 3, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
        results = []
        for mode in (True, False):
            net.train(mode)
            out = net(x)
            results += [out, *torch.autograd.grad(out[:, 0].sum(), [x, *net.parameters()])]
    return hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in results)).hexdigest()[:16]


class one_thread:
    """Sums in one order, whatever the number of cores."""

    def __enter__(self):
        self.threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_):
        torch.set_num_threads(self.threads)


def stored() -> dict:
    return json.loads(FILE.read_text())


def main() -> int:
    results = {f"{key}, {protocol}": compute(key, protocol) for key, protocol in RUNS}
    if FILE.exists() and stored()["science_version"] == records.SCIENCE_VERSION:
        then = {name: run for name, run in stored()["runs"].items() if run["config"] == results[name]["config"]}
        changed = [
            f"{name}: {what}"
            for name in then
            for what in differences(then[name], results[name], strict=then[name]["arithmetic"] == arithmetic())
        ]
        if changed:
            print("Results changed:", *changed, sep="\n  ")
            print("If they are meant to, raise SCIENCE_VERSION in study/records, then run this again.")
            return 1
        for name, before in then.items():  # another machine's rounding is no reason to write them again
            masks = {attack: before["masks"].get(attack, now) for attack, now in results[name]["masks"].items()}
            results[name] = before | {"masks": masks}
    FILE.write_text(golden_text(results))
    print(f"wrote {FILE.name}, science version {records.SCIENCE_VERSION}")
    return 0


def golden_text(results: dict) -> str:
    """JSON with one line an entry, so that a difference can be read."""
    head = {"science_version": records.SCIENCE_VERSION}
    return json.dumps({**head, "runs": results}, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
