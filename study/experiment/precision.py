"""What is computed in: half precision under autocast where a training asks for it, and float32 that is float32."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch
from torch import Tensor

DEVICES = ("cpu", "cuda", "mps", "xpu")  # on which a caller may have autocast


@contextmanager
def float32() -> Iterator[None]:
    """Inside, float32 is float32: no autocast of a caller's, no TensorFloat-32, no bfloat16 in disguise.

    All that measures a network runs in it, as ``with`` or as a decorator. No cuDNN autotuning either: an evaluation
    meets some 160 batch sizes as images fall, and each would be tuned anew. Nor a caller's inference mode: a network
    copied there has no gradients. Afterwards each setting has its value back.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():  # else as it is: switching it off allows gradients
            stack.enter_context(torch.inference_mode(False))
        for device in DEVICES:
            stack.enter_context(torch.autocast(device, enabled=False))
        settings, kept = _settings(), []
        for get, set_to, _ in settings:
            with suppress(RuntimeError):  # torch refuses to tell the older settings where only newer ones were made
                kept.append((set_to, get()))
        try:
            for _, set_to, strict in settings:
                set_to(strict)
            yield
        finally:
            for set_to, value in kept:
                set_to(value)


@contextmanager
def tf32() -> Iterator[None]:
    """In :func:`float32`: a GPU's convolutions round what they multiply to 10 bits of mantissa, and add in float32."""
    cudnn = torch.backends.cudnn
    newer = hasattr(cudnn, "conv")
    part, name, loose = (cudnn.conv, "fp32_precision", "tf32") if newer else (cudnn, "allow_tf32", True)
    strict = getattr(part, name)
    setattr(part, name, loose)
    try:
        yield
    finally:
        setattr(part, name, strict)


def _settings() -> list[tuple[Callable, Callable, object]]:
    """Where torch lets float32 be less: how to read a setting, how to set it, and its strictest value.

    The older settings come first, as each resets some of those that there are for single operations since torch 2.9.
    """
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    single = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv] if hasattr(cudnn, "conv") else []
    named = [(cudnn, "allow_tf32", False), (cudnn, "benchmark", False)]
    named += [(part, "fp32_precision", "ieee") for part in single]
    return [
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        *((partial(getattr, part, name), partial(setattr, part, name), strict) for part, name, strict in named),
    ]


def autocast(device: torch.device, dtype: torch.dtype | None):
    """Autocast to ``dtype``, or :func:`float32`. Uncached: a two-step update changes weights between two forwards."""
    return torch.autocast(device.type, dtype, cache_enabled=False) if dtype else float32()


def training_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16, float16, or None for float32. "auto" and "fast" are what the device multiplies fastest in."""
    named = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    best = {"cuda": _best_of_gpu, "cpu": _best_of_cpu}.get(device.type, lambda: None)
    return named[precision] if precision in named else best()


def _best_of_gpu() -> torch.dtype | None:
    """bfloat16 since Ampere; the tensor cores of Volta and Turing, such as Colab's T4, have only float16."""
    capability = torch.cuda.get_device_capability()
    return torch.bfloat16 if capability >= (8, 0) else torch.float16 if capability >= (7, 0) else None


def _best_of_cpu() -> torch.dtype | None:
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return torch.bfloat16 if any(getattr(torch.cpu, probe, lambda: False)() for probe in probes) else None


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """The sum of log((1 - p) / p): for a sure network in float16, whose gradients of the cross-entropy become 0.

    As d(-log p) = (1 - p) d log((1 - p) / p), an image's gradient has the direction of its cross-entropy's, so that
    each step of PGD is the same. By the logits it is softmax over the other classes minus one for the true class, never
    small however near to 1 p is. logits: (B, K), K at least 2; y: (B,).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    true = y.unsqueeze(1)
    return (logits.scatter(1, true, -math.inf).logsumexp(dim=1) - logits.gather(1, true).squeeze(1)).sum()
