"""Masks and images as text, small enough for a file in git."""

import base64
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from study.machine.folders import write_whole
from study.records.strict import parsed, text_of


def pack_mask(mask: np.ndarray) -> str:
    """bool (n,) as text: bits, deflated, base85."""
    return base64.b85encode(zlib.compress(np.packbits(np.asarray(mask, bool)).tobytes(), 9)).decode()


def unpack_mask(text: str, n: int) -> np.ndarray:
    """The mask of ``n`` images that :func:`pack_mask` was given. ValueError where the text is damaged or of others."""
    bits = _inflated(base64.b85decode(text), (n + 7) // 8, f"{n} images")
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=n).astype(bool)


def pack(array: np.ndarray) -> str:
    """Pixels (uint8) or perturbations (int8) as text: C order, deflated, base64. A browser can undo it by itself."""
    if array.dtype not in (np.uint8, np.int8):
        raise TypeError(f"pixels are uint8 and perturbations int8, not {array.dtype}")
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()


def unpack(text: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """The array that :func:`pack` was given. ValueError where the text is damaged or holds another number of bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(_inflated(base64.b64decode(text), size, f"shape {shape}"), dtype).reshape(shape)


def _inflated(packed: bytes, size: int, what: str) -> bytes:
    """The bytes that were deflated. ValueError unless they are ``size``; more than those are never unpacked."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(packed, size + 1)
    except zlib.error as error:  # which is no ValueError
        raise ValueError(str(error)) from error
    if len(found) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"what is packed is not of {size} bytes, so it cannot hold {what}")
    return found


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[dict]:
    """The contents of a data file. What is found to be wrong with them is raised as ValueError, with the remedy."""
    try:
        yield parsed(text_of(path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error


def write(data: dict, path: Path) -> Path:
    """Write the data file atomically: the same data give the same bytes."""
    return write_whole(path, json.dumps(data, sort_keys=True, separators=(",", ":")) + "\n")
