"""Trained weights as safetensors: a file that says what it is, and that cannot run code when it is read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from advlib.resnet import resnet18
from study.experiment.controls import NORMS
from study.machine.folders import replacing
from study.plan.config import Config
from study.records import Record


def save_weights(
    model: nn.Module, path: Path, record: Record | None = None, dtype: torch.dtype = torch.float32
) -> Path:
    """Write the weights and statistics of the network, atomically, :func:`narrowed` to ``dtype``.

    With its ``record`` the file carries config, classes and the run's place, and :func:`load_model` needs nothing else.
    """
    about = None
    if record:
        about = {
            "config": json.dumps(record.config),
            "classes": json.dumps(record.data["classes"]),
            "record": record.where,
        }
    kept = {name: narrowed(t, dtype) for name, t in model.state_dict().items()}
    with replacing(path) as partial:
        try:
            save_file({name: t.contiguous() for name, t in kept.items()}, partial, metadata=about)
            if about:
                _sort_metadata(partial)
        except SafetensorError as error:  # such as a full disk
            raise OSError(error) from error
    return Path(path)


def _sort_metadata(path: Path) -> None:
    """The same bytes for the same network: safetensors writes what a file says of itself in an order drawn by lot."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])


def narrowed(t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Floating-point numbers in ``dtype``, unless some would become infinite there, as variances do in float16."""
    narrow = t.to(dtype) if t.is_floating_point() else t
    return narrow if torch.equal(narrow.isfinite(), t.isfinite()) else t


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file of weights is raised as ValueError, with the remedy."""
    try:
        yield
    except (SafetensorError, RuntimeError, ValueError, TypeError, LookupError) as error:
        why = shorten(str(error), 300)  # torch says it in many lines, one for each layer
        raise ValueError(f"{path} is no file of a network's weights ({why}): fetch it or make it again") from error


def described(path: Path) -> tuple[dict[str, str], int]:
    """What a file says of itself, and of how many channels its images are. Errors as for :func:`contents`."""
    with _reading(path), safe_open(path, framework="pt") as file:
        return file.metadata() or {}, file.get_slice("standardise.mean").get_shape()[1]


def contents(path: Path) -> dict[str, torch.Tensor]:
    """The weights and statistics of a file, in float32. ValueError, with the remedy, if no network can have them."""
    with _reading(path):
        kept = {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
        for name, t in kept.items():
            if not t.isfinite().all():
                raise ValueError(f"{name} has numbers that are not finite")
            if (name.endswith("running_var") and (t < 0).any()) or (name == "standardise.std" and (t <= 0).any()):
                raise ValueError(f"{name} is of numbers that are too small")
        return kept


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Weights from :func:`save_weights` into a model of the same config; returned in evaluation mode."""
    kept = contents(path)
    with _reading(path):
        model.load_state_dict(kept)
    return model.eval()


def load_model(path: Path, activation: str | None = None) -> nn.Module:
    """The whole model from a file that was saved with its record, in float32 and evaluation mode.

    ``activation="relu"`` gives a network with surrogate gradients its true ones. Raises ValueError on a file that is
    damaged or without a record's description.
    """
    about, channels = described(path)
    if "config" not in about:
        raise ValueError(f"{path} does not say what it is: use load_weights with a model of its config")
    with _reading(path):
        config, classes = Config(**json.loads(about["config"])), len(json.loads(about["classes"]))
    norm, alpha = NORMS[config.norm], config.activation_alpha
    model = resnet18(classes, config.width, activation or config.activation, norm, channels, activation_alpha=alpha)
    return load_weights(model, path)
