"""The machine that was measured: what it is, without its name, and how fast it multiplies matrices."""

import os
import re
import time
from statistics import median

import torch

from study.experiment.build import device_or_best
from study.experiment.precision import training_dtype
from study.experiment.provenance import provenance


def describe(timed: bool = True) -> dict:
    """Device, cores, versions, and, if ``timed``, the peak of its matrix product in float32 and in half precision."""
    device = device_or_best()
    said = provenance(device, None)
    half = training_dtype("auto", device) or torch.bfloat16
    peaks = {str(d).removeprefix("torch."): round(peak(d, device), 3) for d in (torch.float32, half)} if timed else {}
    return {
        "device": said["device"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": said["versions"],
        "commit": said["commit"],
        "dirty": said["dirty"],
        "started": said["started"],
        "matrix_product_tflops": peaks,
    }


def peak(dtype: torch.dtype, device: torch.device, seconds: float = 2.0) -> float:
    """10^12 operations a second of a product of two square matrices: the median over ``seconds``."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    rates, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds or len(rates) < 3:
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(2 * n**3 / (time.perf_counter() - start) / 1e12)
    return median(rates)


def slug(machine: dict) -> str:
    """A file name: "cpu-intel-xeon-processor-2-cores"."""
    kind, _, name = machine["device"].partition(": ")
    name = re.sub(r"\((r|tm)\)", "", name.lower())
    words = re.sub(r"[^a-z0-9]+", "-", f"{kind}-{name}").strip("-")
    return words if kind == "cuda" else f"{words}-{machine['cores']}-cores"
