"""What only the network itself can tell of masking: no bound, no gradient, and whether there is a gradient at all.

Most checks of :mod:`masking.judge` read records. The rest need the weights and a few test images (Carlini et al. 2019,
section 3): an attack that may do anything must find everything, the gradient must not be 0, the loss must have risen
when the attack stops, an attack that sees no gradient must not beat one that follows it (Square, Andriushchenko et al.
2020), and raising a network's own smoothed loss must not beat raising the plain one. All through the branch that
classifies, in evaluation mode, in float32, with the true gradient.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.stats import ttest_1samp
from torch import Tensor, nn

from advlib.attacks import eval_mode, first_success, pgd, predictions, require_finite, uniform_noise
from advlib.losses import als
from study.data.pixels import to_pixels
from study.experiment.evaluate import evaluate
from study.experiment.network import Network
from study.experiment.precision import float32
from study.findings.masking.probes import Probe, with_transferred
from study.plan.attacks import PGD_20, PIXEL, Attack
from study.records import Measurement, Record
from study.records.packing import pack_mask

IMAGES = 200  # of the test set
QUERIES = 1_000  # of Square, an image: where its curve is flat enough for a check, and a CPU needs a minute
UNBOUNDED = Attack("unbounded", "probe", eps=1.0, step_size=4 * PIXEL, steps=100, stop="first-success")
SMOOTHED = replace(PGD_20, column="smoothed-8/255", rule="probe", stop="last-step")
STARTS = 3  # of the unbounded attack: the image, and noise of 8/255 around it
SQUARE = {"column": "square-8/255", "method": "square", "eps": 8 * PIXEL, "norm": "linf", "restarts": 1}


def measure(
    networks: Iterable[Network], results: Path, images: int | None = None, *, anew: bool = False
) -> Iterator[str]:
    """Probe each network on the first ``images`` of its test set, and say what was found.

    What images from other rows did is kept while the weights are the same. Raises what :class:`Network` raises, and
    ImportError without the library that has Square.
    """
    _square()  # before anything is measured
    for network in networks:
        there = Probe.begun(results, network.record, network.digest, images, anew)
        shown, labels = network.first(there.images if there else images, IMAGES)
        found = probe(network.model, shown, labels, record=network.record, about=network.about(len(shown)))
        path = with_transferred(found, results, network.record).write(results, network.record)
        rates = ", ".join(f"{m.column} {100 * m.accuracy:.1f} %" for m in found.measurements)
        yield f"{path}: of {found.images} images right, {rates}"


@float32()
def probe(
    model: nn.Module, images: Tensor, labels: Tensor, *, record: Record, about: dict, queries: int | None = None
) -> Probe:
    """Everything that a :class:`Probe` holds. images: uint8 (N, C, H, W); labels: int64 (N,); about: as
    :meth:`Network.about` has it.

    The model, its modes and statistics, and torch's generators are left as they were.
    """
    queries = queries or QUERIES
    x, generator = to_pixels(images), torch.Generator(images.device).manual_seed(record.seed)
    usual = [Attack("clean", "probe", method="none"), replace(PGD_20, rule="probe")]
    found = evaluate({"true": model}, images, labels, usual, sweep_size=len(images), seed=record.seed)
    with eval_mode(model):
        survives = unbounded(model, x, labels, generator)
        found.append(_measurement(UNBOUNDED.specification | {"restarts": STARTS}, survives))
        found.append(_measurement(SQUARE | {"queries": queries}, square(model, x, labels, queries, record.seed)))
        largest = gradients(model, x, labels).abs().flatten(1).amax(dim=1)
        loss = {str(k): ascended(model, x, labels, k) for k in (0, PGD_20.steps - 1, PGD_20.steps)}
        if record.config["loss"].startswith("als"):
            survives = smoothed(model, x, labels, record.config["smoothing"], generator)
            found.append(_measurement(SMOOTHED.specification | {"loss": "smoothed"}, survives))
    before, last = list(loss.values())[1:]
    return Probe(
        **about,
        measurements=tuple(found),
        zero_gradient=pack_mask((largest == 0).cpu().numpy()),
        vanishing_gradient=pack_mask((largest < torch.finfo(torch.float32).eps).cpu().numpy()),
        loss={k: round(values.mean().item(), 6) for k, values in loss.items()},
        last_step=_interval((last - before).tolist()),
    )


def unbounded(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """bool (B,): which images survive PGD whose ball holds every image there is.

    It starts from the image, then from noise near it: a start drawn from the whole ball would be noise by itself, and
    fool the network without an attack.
    """
    survives = torch.ones_like(y, dtype=torch.bool)
    how = {"eps": UNBOUNDED.eps, "step_size": UNBOUNDED.step_size, "steps": UNBOUNDED.steps}
    for start in range(STARTS):
        near = uniform_noise(x, eps=8 * PIXEL, generator=generator) if start else x
        if survives.any():
            needed = first_success(model, near[survives], y[survives], **how)
            survives[survives.clone()] = needed > UNBOUNDED.steps
    return survives


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each image's cross-entropy with respect to its pixels, shaped as ``x``."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x, materialize_grads=True)
    require_finite(gradient, "gradients by the image")
    return gradient


def smoothed(model: nn.Module, x: Tensor, y: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """bool (B,): which images survive PGD-20 that raises the smoothed loss of ALS instead of the cross-entropy."""
    how = {name: getattr(SMOOTHED, name) for name in ("eps", "step_size", "steps", "random_start", "restarts")}
    return predictions(model, pgd(model, x, y, **how, generator=generator, objective=partial(als, alpha=alpha))) == y


@torch.no_grad()
def ascended(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Cross-entropy (B,) after so many steps of the records' PGD at 8/255, from the image itself."""
    x_adv = pgd(model, x, y, eps=PGD_20.eps, step_size=PGD_20.step_size, steps=steps)
    return F.cross_entropy(model(x_adv), y, reduction="none")


def square(model: nn.Module, x: Tensor, y: Tensor, queries: int, seed: int) -> Tensor:
    """bool (B,): which images survive Square of torchattacks, at 8/255. ImportError, with the remedy, without it.

    It seeds torch's generators: here they are forked, and come back as they were.
    """
    attack = _square()
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
        shown = attack(model, eps=SQUARE["eps"], n_queries=queries, seed=seed)(x, y)
    if (shown - x).abs().max() > SQUARE["eps"] + 1e-6 or shown.min() < 0 or shown.max() > 1:
        raise RuntimeError("Square of torchattacks left its ball or the pixels: its numbers would mean nothing")
    return predictions(model, shown) == y


def _square() -> type:
    """Square of torchattacks. ImportError, with the remedy, without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from torchattacks import Square
        except ImportError as error:
            raise ImportError(
                f"Square needs torchattacks ({error}): pip install --no-deps -r requirements-peers.lock"
            ) from error
    return Square


def _interval(values: list[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of ``values``, one an image."""
    if max(values) == min(values):
        return values[0], values[0]  # SciPy gives nan
    low, high = ttest_1samp(values, 0.0).confidence_interval(0.95)
    return round(float(low), 6), round(float(high), 6)


def _measurement(attack: dict, survives: Tensor) -> Measurement:
    return Measurement.of(f"probe:{attack['column']}", attack["column"], attack, survives.cpu().numpy())
