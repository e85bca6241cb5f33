"""What is computed in: bfloat16 under autocast where a training asks for it, and float32 that is float32 elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32() -> Iterator[None]:
    """Inside, float32 is float32: no autocast of a caller's, no TensorFloat-32, no bfloat16 in disguise.

    All that measures a network runs in it, as ``with`` or as a decorator. No cuDNN autotuning either: an evaluation
    meets some 160 batch sizes as images fall, and each would be tuned anew. Afterwards everything is as it was.
    """
    kept = {(part, name): getattr(part, name) for part, name in _switches()}
    products, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        torch.set_float32_matmul_precision("highest")
        for part, name in kept:
            setattr(part, name, "ieee" if name == "fp32_precision" else False)
        torch.backends.cudnn.benchmark = False
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        for (part, name), value in kept.items():
            setattr(part, name, value)
        torch.backends.cudnn.benchmark = benchmark


def _switches() -> list[tuple[object, str]]:
    """Where torch lets float32 be less: one setting an operation since 2.9, and before it one for convolutions."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    if not hasattr(cuda.matmul, "fp32_precision"):
        return [(cudnn, "allow_tf32")]
    return [(part, "fp32_precision") for part in (cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)]


def autocast(device: torch.device, dtype: torch.dtype | None):
    """Autocast to ``dtype``, or :func:`float32`. Uncached: a two-step update changes weights between two forwards."""
    return torch.autocast(device.type, dtype, cache_enabled=False) if dtype else float32()


def training_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16, or None for float32. "auto" and "fast" are bfloat16 where the device computes in it natively."""
    native = {"cuda": _gpu_has_bf16, "cpu": _cpu_has_bf16}.get(device.type, lambda: False)
    return torch.bfloat16 if precision == "bf16" or (precision in ("auto", "fast") and native()) else None


def _gpu_has_bf16() -> bool:
    return torch.cuda.get_device_capability() >= (8, 0)


def _cpu_has_bf16() -> bool:
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
