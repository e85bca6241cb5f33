"""The loop around the steps of the paper: order, rate, checkpoints, curve."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from study.data.pixels import to_pixels
from study.experiment.fast.parallel import ALONE, Scaler, Team, synchronise
from study.experiment.precision import autocast
from study.machine.folders import replacing
from study.machine.interrupt import Interrupted
from study.machine.progress import progress
from study.plan.config import Config
from study.records import SCIENCE_VERSION

Step = Callable[..., tuple[Tensor, Tensor]]
SAVE_EVERY = "ADVLIB_SAVE_EVERY"  # seconds from one checkpoint of a training to the next, if set


@dataclass
class Epoch:
    """One pass over the training images, as far as it has come."""

    order: Tensor  # (N,): of the images
    sums: Tensor  # (3,): of the loss, and of the images classified correctly, clean and adversarial
    steps: int = 0
    seconds: float = 0.0


def learning_rate(schedule: str, done: float, steps: int) -> float:
    """The share of the peak rate when the share ``done`` in [0, 1) of a training of so many ``steps`` is done.

    ``cosine`` falls over all of it. ``one-cycle`` rises from 0 for 20 %, then falls linearly; a single step has the
    peak. ``published`` has the released code's hundred rates: a cosine over the first 80 that lags one behind, so that
    the first two are the peak, then its last value. There each is for an epoch; here each is for a hundredth of the
    training, so that a short one spends the same share of its steps at each rate.
    """
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if schedule == "one-cycle":
        return min(done / 0.2, (1 - done) / 0.8) if steps > 1 else 1.0
    if schedule == "published":
        lagging = max(int(100 * done + 1e-9) - 1, 0)
        return (1 + math.cos(math.pi * min(lagging, 79) / 80)) / 2
    raise ValueError(f"unknown schedule {schedule!r}: choose one of cosine, one-cycle, published")


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: Config,
    *,
    step: Step,
    attack,
    loss_fn,
    augment,
    generator: torch.Generator,
    precision: torch.dtype | None = None,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[[nn.Module], dict] = lambda model: {},
    team: Team = ALONE,
    checksum: str | None = None,
) -> list[dict]:
    """Train ``model`` in place and return its curve: one dict an epoch.

    images: uint8 (N, C, H, W) on the model's device; labels: (N,). Order and augmentation come from ``generator``. With
    ``checkpoint``, the state is saved between two steps once :func:`save_every` seconds have gone by, and at the end; a
    run that was cut off goes on from it, to the same result (bit for bit on a CPU). ``stop_after`` ends early, after so
    many epochs in all, and saves. ``stop`` is asked before every step: if it says so, the state is saved there and
    then. ``precision`` is what autocast computes in, and the loss is scaled where it is float16; None is float32.
    ``watch`` looks at the model after every epoch, leaves it as it is, and adds what it returns to the epoch's line of
    the curve. ``team``: the processes that share each batch, of which this is one; all call this with the same values.
    ``checksum``: of the data.

    Raises ValueError if the checkpoint is of another config or data, or the batch is larger than the data,
    FloatingPointError if the loss is no longer finite, and Interrupted once ``stop`` has said so.
    """
    N, B, device = len(images), config.batch_size, images.device
    if N < B:
        raise ValueError(f"batch_size={B} is larger than the {N} training images: lower it, or raise train_size")
    refuse_unequal_parts(config, N, team.size)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    synchronise(model, team)
    scaler = Scaler(device, precision, team)
    origin = {
        "config": config.to_dict(),
        "science_version": SCIENCE_VERSION,
        "device": device.type,
        "precision_used": str(precision),
        "data": checksum,
    }
    state = model, optimizer, scaler, generator
    curve, begun = load_checkpoint(checkpoint, origin, *state) if checkpoint else ([], None)
    images_an_epoch = config.images_an_epoch(N)
    steps = math.ceil(images_an_epoch / B)
    last = config.epochs if stop_after is None else min(stop_after, config.epochs)
    saved, pause = time.perf_counter(), save_every()

    model.train()
    with progress(
        desc="train",
        total=config.epochs * steps,
        initial=len(curve) * steps + (begun.steps if begun else 0),
        unit_scale=B,
        unit=" images",
    ) as bar:
        for epoch in range(len(curve), last):
            now = begun or Epoch(torch.randperm(N, generator=generator, device=device), torch.zeros(3, device=device))
            begun = None
            start, batches = time.perf_counter() - now.seconds, now.order[:images_an_epoch].split(B)
            for k in range(now.steps, steps):
                due = checkpoint is not None and time.perf_counter() - saved >= pause
                asked, due = team.any(stop(), due and team.first)  # the first one's clock decides
                if asked or due:
                    so_far = replace(now, sums=team.mean(now.sums), steps=k, seconds=time.perf_counter() - start)
                    _require_finite(so_far.sums[0].item(), epoch, config)  # a poisoned state replaces no good one
                    if checkpoint and team.first:
                        save_checkpoint(checkpoint, origin, *state, curve, so_far)
                    saved = time.perf_counter()
                if asked:
                    raise Interrupted(
                        f"asked to stop after {k} of {steps} steps of epoch {epoch + 1}: run it again to go on"
                    )
                factor = learning_rate(config.schedule, (epoch + k / steps) / config.epochs, steps * config.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * factor
                x = to_pixels(team.part(augment(images[batches[k]], generator)))
                y = team.part(labels[batches[k]])
                with autocast(device, precision):
                    loss, logits = step(model, optimizer, x, y, attack, loss_fn, scaler)
                now.sums += _tally(loss, logits, y, team.size, len(batches[k]) / B)
                if bar.update(1):  # true when the bar redraws: only then is the device waited for
                    averages = _averages(now.sums, min((k + 1) * B, images_an_epoch), B, len(logits) > len(y))
                    short = {name.split("_")[0]: value for name, value in averages.items()}
                    bar.set_postfix(short, refresh=False)
            averages = _averages(team.mean(now.sums), images_an_epoch, B, len(logits) > len(y))
            _require_finite(averages["loss"], epoch, config)
            seconds = time.perf_counter() - start
            line = {"epoch": epoch + 1, "lr": config.lr * factor, **averages, "seconds": round(seconds, 3)}
            curve.append(line | watch(model))
            if epoch + 1 == last and checkpoint and team.first:
                save_checkpoint(checkpoint, origin, *state, curve)
    return curve


def save_every() -> float:
    """``$ADVLIB_SAVE_EVERY`` or 60: seconds between two checkpoints of a training, if a step takes less.

    One of the paper's size has 90 MB, and a GPU may be through an epoch in three seconds. Raises ValueError on what is
    no number from 0 up.
    """
    text = os.environ.get(SAVE_EVERY) or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise ValueError(f"{SAVE_EVERY} {text}: after how many seconds a training saves its state, a number from 0 up")
    return seconds


def _require_finite(loss: float, epoch: int, config: Config) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} in epoch {epoch + 1}: lower lr={config.lr}, or train in float32")


def refuse_unequal_parts(config: Config, images: int, processes: int) -> None:
    """Raises ValueError unless so many processes can share out the last batch of an epoch equally."""
    last = config.images_an_epoch(images) % config.batch_size
    if last % processes:
        raise ValueError(
            f"the last batch of {last} images, which last_batch={config.last_batch!r} keeps, cannot be shared out "
            f"equally among {processes} processes: take as many as divide both it and {config.batch_size}, or one"
        )


def _tally(loss: Tensor, logits: Tensor, y: Tensor, parts: int, weight: float) -> Tensor:
    """What a batch of so many parts adds to the sums of an epoch, estimated from this part: their mean is the truth.

    weight: the batch's size, in complete batches.
    """
    correct = (logits.argmax(dim=1).view(-1, len(y)) == y).sum(dim=1)  # clean, and adversarial if there is such a half
    return torch.stack([weight * loss, parts * correct[0], parts * correct[-1]])


def _averages(sums: Tensor, images: int, B: int, adversarial: bool) -> dict[str, float]:
    loss, clean, adv = (sums / (images / B)).tolist()
    averages = {"loss": loss, "clean_accuracy": clean / B}
    averages |= {"adversarial_accuracy": adv / B} if adversarial else {}
    return {name: float(f"{value:.6g}") for name, value in averages.items()}  # a record need not hold more digits


def save_checkpoint(
    path: Path,
    origin: dict,
    model,
    optimizer,
    scaler: torch.amp.GradScaler,
    generator: torch.Generator,
    curve: list[dict],
    begun: Epoch | None = None,
) -> None:
    """Everything that the rest of the training depends on, written atomically. ``origin`` says what it is of.

    ``begun``: the epoch that is under way, if one is.
    """
    state = {
        "origin": origin,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "generator": generator.get_state(),
        "curve": curve,
        "begun": vars(begun) if begun else None,
    }
    with replacing(path) as partial_path:
        torch.save(state, partial_path)


def load_checkpoint(
    path: Path, origin: dict, model, optimizer, scaler: torch.amp.GradScaler, generator: torch.Generator
) -> tuple[list[dict], Epoch | None]:
    """Restore model, optimiser, scaler and generator from ``path``; the curve so far, and the epoch under way.

    ([], None) if there is no file. Raises ValueError on a damaged checkpoint or one of another origin. Only tensors and
    plain values are unpickled.
    """
    if not path.exists():
        return [], None
    try:
        state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
        saved = state["origin"]
    except Exception as error:  # torch raises many kinds on a damaged file; all mean the same here
        raise ValueError(f"the checkpoint {path} is damaged ({error}): delete it to train from the start") from error
    if saved != origin:
        then, now = saved | saved["config"], origin | origin["config"]
        changed = [
            f"{name} {then.get(name)!r}, now {now[name]!r}"
            for name in now
            if name != "config" and then.get(name) != now[name]
        ]
        raise ValueError(
            f"the checkpoint {path} is of another training ({'; '.join(changed)}): delete it, or move it away"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if state.get("scaler"):  # empty but in float16; older checkpoints have none
        scaler.load_state_dict(state["scaler"])
    generator.set_state(state["generator"].cpu())
    begun = state.get("begun")
    return state["curve"], Epoch(**begun) if begun else None
