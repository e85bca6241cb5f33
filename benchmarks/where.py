"""Where the rest of the time goes: the operators of a fast training step."""

import json
import os
import subprocess
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.race import ROOT
from benchmarks.training import step
from study.machine.kernel import ALLOCATOR

KINDS = {  # part of an operator's name -> what it does, the first that fits
    "convolution_backward": "convolution, backward",
    "cudnn_convolution": "convolution, forward",
    "mkldnn_convolution": "convolution, forward",
    "slow_conv2d_backward": "convolution, backward",  # where oneDNN has no kernel for the processor
    "slow_conv2d_forward": "convolution, forward",
    "batch_norm_backward": "batch norm, backward",
    "batch_norm": "batch norm, forward",
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "threshold_backward": "ReLU and additions",
    "clamp_min": "ReLU and additions",
    "aten::add": "ReLU and additions",
    "aten::cat": "copies",
    "aten::new_zeros": "copies",
    "aten::fill_": "copies",
    "copy_": "copies",
    "constant_pad": "copies",
}
STEADY = 6  # steps until a process has all the memory that a step takes


def question(steps: int) -> list[dict]:
    """:func:`shares` of the paper's size, in a process whose allocator keeps its memory, as that of a run does."""
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.where", str(steps)],
        cwd=ROOT,
        env=os.environ | ALLOCATOR,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(said.stdout.splitlines()[-1])


def shares(width: int = 64, batch: int = 128, steps: int = 3) -> list[dict]:
    """Share of the operators' own time by kind, in the fast step, over a few steps."""
    work = step(width, batch, "fast")
    for _ in range(STEADY):
        work()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=activities) as seen:
        for _ in range(steps):
            work()
    times: dict[str, float] = {}
    for event in seen.key_averages():
        own = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
        kind = next((kind for part, kind in KINDS.items() if part in event.key), "everything else")
        times[kind] = times.get(kind, 0.0) + own
    total = sum(times.values())
    ordered = sorted(times.items(), key=lambda item: (item[0] == "everything else", -item[1]))
    return [{"kind": kind, "share": round(time / total, 4)} for kind, time in ordered]


if __name__ == "__main__":
    print(json.dumps(shares(steps=int(sys.argv[1]))))
