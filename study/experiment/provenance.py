"""What a record says of how it was made: data, cost, code, versions, machine."""

import math
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from study.data import Dataset
from study.plan.arithmetic import passes
from study.plan.config import Config, public
from study.records import versions

CODE = ("advlib", "study", "notebooks")  # what a record's numbers come from


def describe_data(dataset: Dataset) -> dict:
    """What a record says of its images: which they are, how many, and the checksum of their source."""
    return {
        "name": public(dataset.name),
        "title": dataset.title,
        "checksum": dataset.checksum,
        "classes": list(dataset.classes),
        "train_images": len(dataset.train_images),
        "test_images": len(dataset.test_images),
    }


def cost(config: Config, train_images: int, curve: list[dict], evaluation_seconds: float) -> dict:
    """What a run took: passes a step, steps, seconds of training and evaluation, clean training images a second."""
    seconds = sum(epoch["seconds"] for epoch in curve)
    images = config.images_an_epoch(train_images)
    return {
        "passes_per_step": passes(config),
        "steps": math.ceil(images / config.batch_size) * config.epochs,
        "training_seconds": round(seconds, 2),
        "evaluation_seconds": round(evaluation_seconds, 2),
        "training_images_per_second": round(images * config.epochs / seconds, 1),
    }


def provenance(device: torch.device, dtype: torch.dtype | None) -> dict:
    """What made a record: code, versions, machine. No path, no host name."""
    return {
        **code(),
        "versions": versions.here(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": str(dtype or torch.float32).removeprefix("torch."),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_name(device: torch.device) -> str:
    """What it is and which one: "cuda: NVIDIA H100 80GB HBM3"."""
    return f"{device.type}: {torch.cuda.get_device_name(device) if device.type == 'cuda' else _cpu_name()}"


def code(root: Path | None = None) -> dict:
    """The commit of this project's code, which is at ``root``, and whether it was changed since; None where unknown.

    Where there is no git, or ``root`` is not itself a repository of this code, the file ``COMMIT`` names the commit (a
    pack for a borrowed machine has one); without it, as in an installed copy, the commit is unknown. Whether the code
    was changed is then unknown too.
    """
    root = root or Path(__file__).resolve().parents[2]
    top = _git(root, "rev-parse", "--show-toplevel")
    ours = top is not None and Path(top).resolve() == root and _git(root, "ls-files", "--error-unmatch", "study")
    if not ours:
        packed = root / "COMMIT"
        return {"commit": packed.read_text().strip() if packed.is_file() else None, "dirty": None}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *CODE)
    return {"commit": commit, "dirty": None if commit is None or changed is None else bool(changed)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:  # there is no such program
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or sys.platform
