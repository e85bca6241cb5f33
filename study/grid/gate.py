"""Before a campaign: does this machine compute what it should, how fast is it, and how many runs at a time pay?

A borrowed machine is met once, and its minutes do not come back. So a minute of them is spent on what would spoil the
rest: a run of each protocol from the command to the record, small; logits, adversarial images and one update beside
float64 on the CPU; then the real training loop in one, two and four processes.
"""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from advlib.norm import BRANCHES
from study.data import Dataset
from study.data.pixels import to_pixels
from study.experiment import training
from study.experiment.augment import AUGMENTATIONS
from study.experiment.build import LOSSES, build_model, device_or_best, placed, training_attack, training_step
from study.experiment.fast.parallel import ALONE, Scaler
from study.experiment.precision import autocast, training_dtype
from study.experiment.provenance import device_name
from study.machine.folders import WORK
from study.machine.interrupt import Interrupted
from study.plan import arithmetic, catalogue
from study.plan.config import Config

SECONDS = 90  # that it may take; where a machine is as fast as it should be, it takes half of that
KEY = "als-sat-advprop"  # has all three techniques, so both norms, ALS and surrogate gradients are checked
JOBS = (1, 2, 4)
PATIENCE = 45  # seconds for a process to start and take a step
WORTH = 1.05  # how much more a larger number of processes must do to be chosen
# How far a device may be from float64, by what it computes in. On a CPU float32 was 7e-7, 0.004 and 4e-5 off at most,
# and bfloat16 0.008, 0.05 and 0.12. Logits would show TensorFloat-32 in the place of float32.
LIMITS = {
    "float32": {"logits": 1e-4, "pixels": 0.03, "update": 2e-3},
    "half precision": {"logits": 0.1, "pixels": 0.25, "update": 0.4},
}
WHAT = {
    "logits": "largest difference of logits, as a share of the largest logit",
    "pixels": "share of the pixels of adversarial images that went another way",
    "update": "length of the difference of one update, as a share of the update's",
}
LATE = "is not over in the time there is"


class GateFailed(RuntimeError):
    """The machine is not fit for a campaign; the message says in which respects."""

    exit_status = 1


@dataclass(frozen=True)
class Check:
    """One comparison with float64 on the CPU: how far off, and how far it may be."""

    protocol: str
    precision: str
    what: str  # of WHAT
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.value <= self.limit  # false for NaN

    def __str__(self) -> str:
        return f"{self.protocol}, {self.precision}: {WHAT[self.what]} {self.value:.2g} (at most {self.limit:g})"


def gate(
    budget: str,
    *,
    device: torch.device | None = None,
    seconds: float = SECONDS,
    say: Callable[[str], None] = print,
) -> dict:
    """Look at this machine for about ``seconds``: how many ``jobs`` to run at a time, and how fast each then is.

    ``device``: None for a GPU if there is one. Raises GateFailed if a run fails, both are late, numbers are off, or the
    budget wants a GPU and there is none.
    """
    begin = time.monotonic()
    device = device_or_best(device)
    say(f"gate: {device_name(device)}, budget {budget}, {seconds:g} s at most")
    if device.type == "cpu" and budget in catalogue.GPU_BUDGETS:
        raise GateFailed(f"the gate stays shut: budget {budget} is for a GPU, and PyTorch finds none here")
    found = _look(budget, device, begin + seconds, say)
    if broken := [what for holds, what in found if not holds]:
        raise GateFailed(f"the gate stays shut: {'; '.join(broken)}")
    left = begin + seconds - time.monotonic()
    config = catalogue.config("adversarial", budget=budget)
    rates = paces(config, device, min(left, seconds / 3), say)
    jobs = choose(rates)
    say(f"gate: open for {jobs} at a time, after {time.monotonic() - begin:.0f} s")
    return {
        "jobs": jobs,
        "operations_per_second": {
            str(n): rate / n * arithmetic.training(config.change(epochs=1), 1) for n, rate in rates.items()
        },
    }


def _look(budget: str, device: torch.device, end: float, say: Callable[[str], None]) -> list[tuple[bool, str]]:
    """Start small runs, compare numbers with float64 meanwhile: each check in words, and whether it holds."""
    found = []

    def tell(holds: bool, what: str) -> None:
        found.append((holds, what))
        say(f"{'ok  ' if holds else 'FAIL'} {what}")

    with TemporaryDirectory(prefix="advlib-gate-", ignore_cleanup_errors=True) as folder:
        runs = {protocol: _small_run(protocol, Path(folder) / protocol) for protocol in catalogue.PROTOCOLS}
        try:
            for check in (check for protocol in runs for check in agreement(budget, protocol, device)):
                tell(check.holds, str(check))
            said = {protocol: _last_words(run, end - time.monotonic()) for protocol, run in runs.items()}
            for protocol, words in said.items():
                late = words == LATE and "" in said.values()  # slow, as the other shows, and not broken
                tell(not words or late, f"{protocol}: a small run, from the command to the end, {words or 'worked'}")
        finally:
            for run in runs.values():
                run.terminate()
                run.wait()
    return found


def choose(rates: dict[int, float]) -> int:
    """How many processes: the most images a second in all; of what is within 5 % of that, the fewest."""
    return min(n for n, rate in rates.items() if WORTH * rate >= max(rates.values()))


def agreement(budget: str, protocol: str, device: torch.device) -> list[Check]:
    """Logits, PGD's images and one update at a budget's width, in float32 and in what it trains in, beside float64."""
    config = catalogue.config(KEY, protocol=protocol, budget=budget)
    reference = _computed(config, torch.device("cpu"), torch.float64, None)
    used = {"float32": None} | ({"half precision": half} if (half := training_dtype("auto", device)) else {})
    found = []
    for name, dtype in used.items():
        seen = _computed(config, device, torch.float32, dtype, twins=reference["twins"])
        errors = {
            "logits": (seen["logits"] - reference["logits"]).abs().max() / reference["logits"].abs().max(),
            "pixels": ((seen["twins"] - reference["twins"]).abs() > 1e-3).double().mean(),
            "update": (seen["update"] - reference["update"]).norm() / reference["update"].norm(),
        }
        found += [Check(protocol, name, what, float(e), LIMITS[name][what]) for what, e in errors.items()]
    return found


def _computed(
    config: Config, device: torch.device, wide: torch.dtype, half: torch.dtype | None, twins: Tensor | None = None
) -> dict[str, Tensor]:
    """What a new network of ``config`` computes there: logits, ``twins``, and the update by them or those given."""
    data = noise(16)
    model = placed(build_model(config, data).to(wide), device)
    x, y = to_pixels(data.test_images).to(device, wide), data.test_labels.to(device)
    with autocast(device, half):
        with torch.no_grad():
            logits = torch.cat([model.eval()(x, branch=branch) for branch in BRANCHES])
        own = training_attack(config, dtype=half)(model.train(), x, y)
        given = own if twins is None else twins.to(device, wide)
        before = _flat(model)
        optimizer = torch.optim.SGD(model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
        loss_fn, scaler = LOSSES[config.loss](config.smoothing), Scaler(device, half, ALONE)
        training_step(config)(model, optimizer, x, y, lambda *_: given, loss_fn, scaler)
    found = {"logits": logits, "twins": own, "update": _flat(model) - before}
    return {name: tensor.detach().double().cpu() for name, tensor in found.items()}


def _flat(model) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def noise(images: int) -> Dataset:
    """A data set of so many images of noise, in ten classes; what is timed does not depend on what images show."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(images) % 10
    classes, half = tuple("0123456789"), (0.5, 0.5, 0.5)
    return Dataset("noise", "noise", classes, half, half, pixels, labels, pixels, labels, "sha256:noise")


def _small_run(protocol: str, folder: Path) -> subprocess.Popen:
    """A run of the machinery check, started: a command, papermill, a kernel, training, evaluation, a record."""
    folder.mkdir()
    command = [sys.executable, "-m", "study", "run", KEY, "--protocol", protocol, "--results", str(folder / "results")]
    command += ["--set", "epochs=1", "--set", "test_size=20", "--set", "sweep_size=10"]
    with open(folder / "said", "w") as said:
        run = subprocess.Popen(
            command, stdout=said, stderr=said, env=os.environ | {WORK: str(folder / "work"), "ADVLIB_TERMINAL": ""}
        )
    run.said = folder / "said"
    return run


def _last_words(run: subprocess.Popen, seconds: float) -> str:
    """How a run failed that ought to end within so many seconds; "" if it did not."""
    try:
        status = run.wait(timeout=max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return LATE
    said = run.said.read_text().strip().splitlines()[-4:]
    return f"ended with status {status}: {' / '.join(said) or 'without a word'}" if status else ""


class Pace:
    """The training loop of a config as it is, on images of noise, for some seconds at a time."""

    def __init__(self, config: Config, device: torch.device):
        # the rate rises so slowly over so many epochs that noise for images cannot blow the weights up
        self.config, self.device = config.change(epochs=10**6, schedule="one-cycle"), device
        data = noise(4 * config.batch_size)
        self.data = data.to(device)
        self.model = placed(build_model(config, data), device)

    def __call__(self, seconds: float) -> tuple[int, float]:
        """Train for so long, at least a step: clean images learned from, and seconds until the last was."""
        begin, steps, dtype = time.perf_counter(), [], training_dtype(self.config.precision, self.device)

        def counted(*arguments):
            steps.append(1)
            return training_step(self.config)(*arguments)

        with suppress(Interrupted):
            training.fit(
                self.model,
                self.data.train_images,
                self.data.train_labels,
                self.config,
                step=counted,
                attack=training_attack(self.config, dtype=dtype),
                loss_fn=LOSSES[self.config.loss](self.config.smoothing),
                augment=AUGMENTATIONS[self.config.augmentation],
                generator=torch.Generator(self.device).manual_seed(0),
                precision=dtype,
                stop=lambda: bool(steps) and time.perf_counter() - begin >= seconds,
            )
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return len(steps) * self.config.batch_size, time.perf_counter() - begin

    def memory(self) -> float:
        """GB that are in use: of the GPU, by everybody; of the CPU's, by this process at its highest."""
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            return (total - free) / 1e9
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def paces(config: Config, device: torch.device, seconds: float, say: Callable[[str], None] = print) -> dict[int, float]:
    """Clean images a second of 1, 2 and 4 processes together.

    More processes are not tried where the memory or the time, of which each try gets a share, would not do, and one
    that fails beside others ends the tries. Raises GateFailed if one alone cannot train.
    """
    end, share = time.monotonic() + seconds, max(0.5, seconds / 8)
    whole = _memory(device)
    context, rates, each = multiprocessing.get_context("spawn"), {}, 0.0
    crew = [_Hand(context, config, device) for _ in range(JOBS[-1])]  # all import torch at the same time
    try:
        for n in JOBS:
            left = end - time.monotonic()
            if rates and (n * each > 0.9 * whole or 2 * share > left):
                say(f"gate: {n} at a time, not tried: {n * each:.1f} of {whole:.0f} GB, {left:.0f} s left")
                break
            try:
                _all(crew[:n], 0.0)  # whoever is new meets its first step
                done = _all(crew[:n], share)
            except GateFailed as error:
                if not rates:
                    raise
                say(f"gate: {n} at a time do not work: {error}")
                break
            rates[n] = sum(images / took for images, took, _ in done)
            each = each or done[0][2]
            say(f"gate: {n} at a time: {rates[n]:.1f} images a second in all, {each:.1f} GB each")
    finally:
        for hand in crew:
            hand.dismiss()
    return rates


def _all(crew: list["_Hand"], seconds: float) -> list[tuple[int, float, float]]:
    for hand in crew:
        hand.pipe.send(seconds)
    return [hand.answer(seconds + PATIENCE) for hand in crew]


class _Hand:
    """A process that trains for so long as it is told, and says how much it did."""

    def __init__(self, context, config: Config, device: torch.device):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, config, device.type), daemon=True)
        self.process.start()
        theirs.close()

    def answer(self, patience: float) -> tuple[int, float, float]:
        try:
            if not self.pipe.poll(patience):
                raise GateFailed(f"a process has not trained a step in {patience:.0f} s")
            found = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise GateFailed(f"a process that trained has died (status {self.process.exitcode})") from None
        if isinstance(found, str):
            raise GateFailed(f"a process could not train: {found}")
        return found

    def dismiss(self) -> None:
        with suppress(OSError):
            self.pipe.send(None)
        self.process.join(timeout=1)
        self.process.kill()


def _serve(pipe, config: Config, device: str) -> None:
    with suppress(EOFError, BrokenPipeError):  # the gate itself has gone
        try:
            pace = Pace(config, torch.device(device))
            for seconds in iter(pipe.recv, None):
                pipe.send((*pace(seconds), pace.memory()))
        except (ArithmeticError, RuntimeError, ValueError, TypeError) as error:
            pipe.send(f"{type(error).__name__}: {error}")


def _memory(device: torch.device) -> float:
    """GB of memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[1] / 1e9
    import psutil

    return psutil.virtual_memory().available / 1e9
