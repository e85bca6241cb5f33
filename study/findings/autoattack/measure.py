"""AutoAttack on a trained network: APGD-CE, targeted APGD-DLR, targeted FAB and Square (Croce and Hein 2020).

The attacks are those of ``pyautoattack``, the authors' implementation as a package, with the authors' budget. Why that
one, of what can be installed: ``torchattacks`` has all four, but its ``AutoAttack`` takes 10 steps where the standard
version takes 100, has none of the five checks, and was last released in 2023; the Adversarial Robustness Toolbox is
better kept, but has neither FAB nor the targeted loss, and calls another ensemble AutoAttack.

What the library does not do is done here. It seeds torch's global generators: they are forked. It leaves gradients in
the parameters: a copy is attacked. It is believed nothing: the images that it returns are looked at (ball, pixels), and
classified again by the network itself. All in evaluation mode, float32, on pixels in [0, 1], with the true gradient.
"""

import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from advlib.attacks import predictions
from study.data.pixels import to_pixels
from study.experiment.network import Network, refuse_single
from study.experiment.precision import float32
from study.findings.autoattack import judge
from study.findings.autoattack.judge import (
    ATTACKS,
    EPS,
    PROBABILITIES,
    RANDOMISED,
    SIZE,
    SQUARE,
    AutoAttack,
    AutoAttackOnAux,
)
from study.machine.progress import progress
from study.records import Measurement, Record

LIBRARY = "pyautoattack"
STEPS, QUERIES, TARGETS = 100, 5_000, 9  # of the standard version, as :func:`attacker` hands them over
IMAGES = 500  # of the test set, unless others are asked for
BATCH = 100
ROUNDING = 1e-6  # of pixels, in float32


def measure(
    networks: Sequence[Network],
    results: Path,
    images: int | None = None,
    *,
    until: str = ATTACKS[-1],
    anew: bool = False,
    kind: type[AutoAttack] = AutoAttack,
) -> Iterator[str]:
    """Attack each network, write what is left after each attack, and say what was found.

    ``images``: the first so many of the test set; ``until``: the last attack to run; ``kind``: which branch. What a
    file has already is kept, unless all is to be made ``anew``. Raises ValueError if weights, data or the file there
    are not the record's, or a network has no such branch, and ImportError without the library.
    """
    if kind is AutoAttackOnAux:
        refuse_single(networks)
    for network in networks:
        record = network.record
        path = Path(results) / record.where / kind.FILE
        before = kind.begun(results, record, network.digest, images, anew)
        shown, labels = network.first(before.images if before else images, IMAGES)
        found = attack(
            Branch(network.model, kind.BRANCH),
            shown,
            labels,
            record=record,
            about=network.about(len(shown)),
            until=until,
            before=before,
            kind=kind,
            keep=lambda found, record=record: found.write(results, record),
        )
        rates = ", ".join(f"{name} {100 * found.after(name).mean():.1f} %" for name in ("clean", *found.attacks))
        raised = ", ".join(flag for flag, warning in found.flags.items() if warning) or "none"
        yield f"{path}: of {found.images} images right, {rates}; flags: {raised}"


@float32()
def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    record: Record,
    about: dict,
    until: str = ATTACKS[-1],
    before: AutoAttack | None = None,
    kind: type[AutoAttack] = AutoAttack,
    keep: Callable[[AutoAttack], object] = lambda found: None,
    steps: int = STEPS,
    queries: int = QUERIES,
) -> AutoAttack:
    """Run the ensemble up to ``until`` on images, uint8 (N, C, H, W), and labels, int64 (N,).

    about: as :meth:`Network.about` has it. ``before``: what is finished, and not done again; ``kind``: of the file, for
    the branch that ``model`` is; ``keep`` is called after each attack. The model, its modes, gradients and statistics,
    and torch's generators are left as they were. Raises ValueError if the model is not the record's, or has too few
    classes for the targeted loss, which needs four.
    """
    x = to_pixels(images).contiguous()  # not channels last: the library looks at gradients by views
    cuda = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=cuda):
        model = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
        found = before or _begin(kind, model, x, labels, record, about)
        for name in ATTACKS[len(found.attacks) : ATTACKS.index(until) + 1]:
            found = _after(name, found, model, x, labels, {"steps": steps, "queries": queries, "seed": record.seed})
            keep(found)
    return found


def _after(name: str, found: AutoAttack, model: nn.Module, x: Tensor, labels: Tensor, budget: dict) -> AutoAttack:
    """``found`` and one attack more."""
    start, heard = time.perf_counter(), Heard()
    run, how = attacker(name, model, x, **budget, logger=heard)
    alive = torch.from_numpy(found.left).to(labels.device)
    left = survivors(run, model, x, labels, alive, f"{found.record.split('/')[-2]} {name}")
    specification = how | {"batch_size": BATCH, "library": f"{LIBRARY} {version(LIBRARY)}"}
    found = replace(
        found,
        measurements=(*found.measurements, _measurement(name, f"{name}-{SIZE}", specification, left)),
        seconds=dict(found.seconds) | {name: round(time.perf_counter() - start, 1)},
    )
    return replace(found, flags=dict(found.flags) | _flags_after(name, found, alive, heard))


def _measurement(name: str, column: str, attack: dict, right: Tensor) -> Measurement:
    return Measurement.of(f"autoattack:{name}", column, attack, right.cpu().numpy())


def attacker(
    name: str, model: nn.Module, x: Tensor, *, steps: int, queries: int, seed: int, logger: "Heard"
) -> tuple[Callable[[Tensor, Tensor], Tensor], dict]:
    """One attack of the library as a function (x, y) -> images, and its specification. Errors as for :func:`attack`."""
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    if classes < 4:
        raise ValueError(f"the model has {classes} classes, and the targeted loss of AutoAttack needs 4 or more")
    _library()
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    shared = {"norm": "Linf", "eps": EPS, "n_restarts": 1, "seed": seed, "device": x.device}
    targets = min(TARGETS, classes - 1)
    how = {"method": name, "norm": "linf", "eps": EPS, "restarts": 1, "seed": seed}
    if name == "apgd-ce":
        made = APGDAttack(model, n_iter=steps, loss="ce", **shared)
        how |= {"steps": steps, "loss": "cross-entropy", "random_start": True}
    elif name == "apgd-t":
        made = APGDAttack_targeted(model, n_iter=steps, n_target_classes=targets, logger=logger, **shared)
        how |= {"steps": steps, "loss": "targeted difference of logits ratio", "targets": targets, "random_start": True}
    elif name == "fab-t":
        made = FABAttack_PT(model, n_iter=steps, targeted=True, n_target_classes=targets, **shared)
        how |= {"steps": steps, "targets": targets, "random_start": False}
    else:
        made = SquareAttack(model, n_queries=queries, resc_schedule=False, **shared)
        how |= {"queries": queries, "loss": "margin"}
    return made.perturb, how


def survivors(run, model: nn.Module, x: Tensor, y: Tensor, alive: Tensor, title: str = "") -> Tensor:
    """bool (N,): which of the images that ``alive`` marks are still classified correctly after ``run``.

    Raises RuntimeError if the images that ``run`` returns lie outside the ball or are no pixels.
    """
    left = alive.clone()
    todo = alive.nonzero().flatten()
    with progress(total=len(todo), desc=title, unit="image") as bar:
        for batch in todo.split(BATCH) if len(todo) else ():
            shown = run(x[batch].clone(), y[batch].clone()).detach()
            inside = (shown - x[batch]).abs().max() <= EPS + ROUNDING and shown.min() >= 0 and shown.max() <= 1
            if not inside:  # also of images that are not numbers
                raise RuntimeError(
                    f"{title or 'the attack'} left its ball or the pixels: its number would mean nothing"
                )
            left[batch] = predictions(model, shown) == y[batch]
            bar.update(len(batch))
    return left


class Branch(nn.Module):
    """One branch of a network as a network of its own, which the library calls with images alone."""

    def __init__(self, network: nn.Module, branch: str):
        super().__init__()
        self.network, self.branch = network, branch

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, branch=self.branch)


class Heard:
    """A logger that keeps what the library warns of."""

    def __init__(self):
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(str(message).partition(" See flags_doc")[0].strip())

    @property
    def text(self) -> str:
        """The first warning, and how often there was one; "" if there was none."""
        often = f" ({len(self.warnings)} warnings)" if len(self.warnings) > 1 else ""
        return f"{self.warnings[0]}{often}" if self.warnings else ""


def flags(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, str]:
    """The authors' checks of the network itself, on a batch: flag -> warning, or "".

    Is the output another each time (a randomised defence, which needs an attack that averages over it)? Is it
    probabilities (whose gradient can vanish), not logits? Does the network itself take gradients while it classifies?
    """
    checks, heard = _library().checks, {name: Heard() for name in judge.FLAGS[:3]}
    checks.check_randomized(model, x, y, alpha=RANDOMISED, logger=heard["randomised"])
    checks.check_range_output(model, x, alpha=PROBABILITIES, logger=heard["probabilities"])
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))  # the library counts calls for as long as the process lives
    tracing = sys.gettrace()
    try:
        checks.check_dynamic(model, x, logger=heard["optimises"])
    finally:
        sys.settrace(tracing)
    return {name: said.text for name, said in heard.items()}


def _begin(kind: type[AutoAttack], model: nn.Module, x: Tensor, y: Tensor, record: Record, about: dict) -> AutoAttack:
    clean = torch.cat([predictions(model, part) for part in x.split(BATCH)]) == y
    found = kind(
        **about,
        measurements=(_measurement("clean", "clean", {"method": "none"}, clean),),
        seconds={},
        flags=flags(model, x[:BATCH], y[:BATCH]),
    )
    if why := found.foreign(record):
        raise ValueError(f"the network is not that of {record.where}: {why}")
    return found


def _flags_after(name: str, found: AutoAttack, attacked: Tensor, heard: Heard) -> dict[str, str]:
    """What only an attack can raise: no gradient for APGD-T to follow, and images that Square alone finds."""
    if name == "apgd-t" and attacked.any():
        return {"zero-gradient": heard.text}
    if name == "square":
        left = {attack: float(found.after(attack).mean()) for attack in ("clean", *found.attacks)}
        # a sum of floats must not make an alarm out of exactly 0.2 points
        _library().checks.check_square_sr(left, alpha=SQUARE + 1e-9, logger=heard)
        return {"square": heard.text}
    return {}


def _library():
    try:
        import pyautoattack
        import pyautoattack.checks
    except ImportError as error:
        remedy = "pip install --no-deps -r requirements-peers.lock"
        raise ImportError(f"AutoAttack needs {LIBRARY} ({error}): {remedy}") from error
    return pyautoattack
