"""The loop around the steps of the paper: order, rate, checkpoints, curve."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
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


def fit(model: nn.Module, images: Tensor, labels: Tensor, config: Config, **how) -> list[dict]:
    """Train ``model`` in place and return its curve: one dict an epoch. Arguments and errors: :class:`Training`."""
    return Training(model, images, labels, config, **how).run()


@dataclass
class Epoch:
    """One pass over the training images, as far as it has come."""

    order: Tensor  # (N,): of the images
    sums: Tensor  # (3,): of the loss, and of the images classified correctly, clean and adversarial
    steps: int = 0
    seconds: float = 0.0


@dataclass
class Training:
    """A network, what it learns from and how, and how far it has come.

    A training that was cut off goes on from its ``checkpoint``, to the same result (bit for bit on a CPU). All
    processes of a ``team`` give the same values.

    Raises ValueError if the checkpoint is damaged or of another config or data, or the batch is larger than the data or
    cannot be shared out; when it runs, FloatingPointError if the loss is no longer finite, and Interrupted.
    """

    model: nn.Module
    images: Tensor  # uint8 (N, C, H, W), on the model's device
    labels: Tensor  # (N,)
    config: Config
    _: KW_ONLY
    step: Step  # an update of `advlib.train`
    attack: Callable  # (model, x, y) -> adversarial twins of x
    loss_fn: Callable  # (logits, labels) -> mean loss
    augment: Callable  # (images, generator) -> images
    generator: torch.Generator  # draws order and augmentation
    precision: torch.dtype | None = None  # of autocast; float16 has its loss scaled; None is float32
    checkpoint: Path | None = None  # saved every `save_every()` seconds, between two steps, and at the end
    stop: Callable[[], bool] = lambda: False  # asked before every step: if it says so, save and raise Interrupted
    watch: Callable[[nn.Module], dict] = lambda model: {}  # looks at the model after an epoch, adds to its line
    team: Team = ALONE  # the processes that share each batch, of which this is one
    checksum: str | None = None  # of the data

    def __post_init__(self):
        N, B = len(self.images), self.config.batch_size
        if N < B:
            raise ValueError(f"batch_size={B} is larger than the {N} training images: lower it, or raise train_size")
        refuse_unequal_parts(self.config, N, self.team.size)
        self.device = self.images.device
        self.images_an_epoch = self.config.images_an_epoch(N)
        self.steps = math.ceil(self.images_an_epoch / B)  # of an epoch
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=self.config.lr,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
        )
        synchronise(self.model, self.team)
        self.scaler = Scaler(self.device, self.precision, self.team)
        self.curve, self.begun = load_checkpoint(self.checkpoint, self) if self.checkpoint else ([], None)
        self.saved, self.pause = time.perf_counter(), save_every()

    @property
    def origin(self) -> dict:
        """What a checkpoint must be of, to go on from it."""
        return {
            "config": self.config.to_dict(),
            "science_version": SCIENCE_VERSION,
            "device": self.device.type,
            "precision_used": str(self.precision),
            "data": self.checksum,
        }

    def run(self) -> list[dict]:
        """Train from where it stands to the end; the curve."""
        epochs = self.config.epochs
        done = len(self.curve) * self.steps + (self.begun.steps if self.begun else 0)
        size = {"total": epochs * self.steps, "initial": done, "unit_scale": self.config.batch_size}
        self.model.train()
        with progress(desc="train", unit=" images", **size) as bar:
            for epoch in range(len(self.curve), epochs):
                line = self._learn(epoch, self.begun or self._new_epoch(), bar)
                self.begun = None
                self.curve.append(line | self.watch(self.model))
                if epoch + 1 == epochs and self.checkpoint and self.team.first:
                    save_checkpoint(self.checkpoint, self)
        return self.curve

    def _new_epoch(self) -> Epoch:
        order = torch.randperm(len(self.images), generator=self.generator, device=self.device)
        return Epoch(order, torch.zeros(3, device=self.device))

    def _learn(self, epoch: int, now: Epoch, bar) -> dict:
        """What is left of an epoch; its line of the curve."""
        B = self.config.batch_size
        start, batches = time.perf_counter() - now.seconds, now.order[: self.images_an_epoch].split(B)
        for k in range(now.steps, self.steps):
            self._save_or_stop(epoch, replace(now, steps=k, seconds=time.perf_counter() - start))
            rate = self._set_rate(epoch + k / self.steps)
            x, y = self._batch(batches[k])
            with autocast(self.device, self.precision):
                loss, logits = self.step(self.model, self.optimizer, x, y, self.attack, self.loss_fn, self.scaler)
            now.sums += _tally(loss, logits, y, self.team.size, len(batches[k]) / B)
            if bar.update(1):  # true when the bar redraws: only then is the device waited for
                averages = _averages(now.sums, min((k + 1) * B, self.images_an_epoch), B, len(logits) > len(y))
                bar.set_postfix({name.split("_")[0]: value for name, value in averages.items()}, refresh=False)
        averages = _averages(self.team.mean(now.sums), self.images_an_epoch, B, len(logits) > len(y))
        self._require_finite(averages["loss"], epoch)
        return {"epoch": epoch + 1, "lr": rate, **averages, "seconds": round(time.perf_counter() - start, 3)}

    def _save_or_stop(self, epoch: int, now: Epoch) -> None:
        """Between two steps: save if it is time to, or if anybody has been asked to stop."""
        due = self.checkpoint is not None and time.perf_counter() - self.saved >= self.pause
        asked, due = self.team.any(self.stop(), due and self.team.first)  # the first one's clock decides
        if asked or due:
            now = replace(now, sums=self.team.mean(now.sums))
            self._require_finite(now.sums[0].item(), epoch)  # a poisoned state replaces no good one
            if self.checkpoint and self.team.first:
                save_checkpoint(self.checkpoint, self, now)
            self.saved = time.perf_counter()
        if asked:
            raise Interrupted(
                f"asked to stop after {now.steps} of {self.steps} steps of epoch {epoch + 1}: run it again to go on"
            )

    def _set_rate(self, epochs: float) -> float:
        """The learning rate after so many epochs."""
        total = self.config.epochs
        rate = self.config.lr * learning_rate(self.config.schedule, epochs / total, self.steps * total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of the chosen images, augmented, as pixels (B, C, H, W); their labels (B,)."""
        x = self.team.part(self.augment(self.images[chosen], self.generator))
        return to_pixels(x), self.team.part(self.labels[chosen])

    def _require_finite(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {epoch + 1}: lower lr={self.config.lr}, or train in float32"
            )


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


def save_checkpoint(path: Path, training: Training, begun: Epoch | None = None) -> None:
    """Everything that the rest of a training depends on, written atomically. ``begun``: the epoch under way, if any."""
    state = {
        "origin": training.origin,
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.scaler.state_dict(),
        "generator": training.generator.get_state(),
        "curve": training.curve,
        "begun": vars(begun) if begun else None,
    }
    with replacing(path) as partial_path:
        torch.save(state, partial_path)


def load_checkpoint(path: Path, training: Training) -> tuple[list[dict], Epoch | None]:
    """Restore a training's model, optimiser, scaler and generator; the curve so far, and the epoch under way.

    ([], None) if there is no file. Raises ValueError on a damaged checkpoint or one of another origin. Only tensors and
    plain values are unpickled.
    """
    if not path.exists():
        return [], None
    try:
        state = torch.load(path, map_location=training.device, weights_only=True)
        saved = state["origin"]
    except Exception as error:  # torch raises many kinds on a damaged file; all mean the same here
        raise ValueError(f"the checkpoint {path} is damaged ({error}): delete it to train from the start") from error
    _refuse_another_origin(path, saved, training.origin)
    training.model.load_state_dict(state["model"])
    training.optimizer.load_state_dict(state["optimizer"])
    if state.get("scaler"):  # empty but in float16; older checkpoints have none
        training.scaler.load_state_dict(state["scaler"])
    training.generator.set_state(state["generator"].cpu())
    begun = state.get("begun")
    return state["curve"], Epoch(**begun) if begun else None


def _refuse_another_origin(path: Path, saved: dict, origin: dict) -> None:
    if saved == origin:
        return
    then, now = saved | saved["config"], origin | origin["config"]
    del now["config"]  # its fields are there one by one
    changed = [f"{name} {then.get(name)!r}, now {now[name]!r}" for name in now if then.get(name) != now[name]]
    raise ValueError(f"the checkpoint {path} is of another training ({'; '.join(changed)}): delete it, or move it away")
