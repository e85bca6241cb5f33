"""FGSM and PGD as pure functions of ``(logits_fn, x, y)`` (section "Related Works").

``logits_fn`` maps images (B, C, H, W) to logits (B, K). An attack is untargeted: it raises the cross-entropy of the
true label, and returns images like ``x`` inside the ball and inside ``bounds``. It reads gradients by the images only,
so parameters, their gradients, buffers and ``x`` stay as they were. Batch norm in training mode would still move: craft
inside :func:`eval_mode`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LogitsFn = Callable[[Tensor], Tensor]
Objective = Callable[[Tensor, Tensor], Tensor]
Bounds = tuple[float, float]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """What an attack raises: the sum of -log p over the images, p the probability of the true class.

    A mean would make an image's gradient depend on the size of the batch. logits: (B, K); y: (B,).
    """
    return F.cross_entropy(logits, y, reduction="sum")


def fgsm(
    logits_fn: LogitsFn, x: Tensor, y: Tensor, *, eps: float, bounds: Bounds = (0.0, 1.0), validate: bool = True
) -> Tensor:
    """One full signed step, x + eps sign(grad), clipped to ``bounds`` (Goodfellow et al. 2015).

    It is PGD with a single step as long as its radius. Arguments and errors as for :func:`pgd`.
    """
    return pgd(logits_fn, x, y, eps=eps, step_size=eps, steps=1, bounds=bounds, validate=validate)


def pgd(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    random_start: bool = False,
    restarts: int = 1,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
    validate: bool = True,
    part: tuple[int, int] = (0, 1),
    objective: Objective = cross_entropy,
) -> Tensor:
    """Projected gradient ascent on the cross-entropy inside the eps-ball (Madry et al. 2018); returns the last iterate.

    x: (B, C, H, W) inside ``bounds`` but for rounding, of any floating-point dtype; y: (B,) int64. ``eps``,
    ``step_size``: lengths in the ``norm`` ("linf" or "l2"), in the units of ``x`` (pixels: 8/255 is customary).
    ``random_start``: from a point of the ball, drawn from ``generator`` or torch's global one. ``restarts`` beyond the
    first are for survivors only. ``validate=False`` trusts all values, which spares a GPU the wait for them: images
    beyond ``bounds`` are clamped into them, whatever eps is, and a gradient that is not finite makes images that are
    not. ``part=(k, n)``: ``x`` is the k-th (from 0) of n equal parts of a batch, and gets the random starts that it has
    in the whole of it. ``objective``: what is raised in the place of the cross-entropy.

    Raises ValueError on images outside ``bounds``, an empty batch, and impossible labels, logits or hyperparameters;
    TypeError on a wrong dtype or what is no tensor; FloatingPointError on logits or a gradient that are not finite.
    """
    _check_batch(x, y)
    logits_fn = _checking_values(logits_fn, x, y, bounds) if validate else logits_fn
    eps, step_size, steps, restarts = _strength(eps, step_size, steps, restarts, norm)
    given = x.detach()
    x, logits_fn = _wide(given, logits_fn)
    ball = _BALLS[norm](x, eps, bounds)
    start = partial(ball.random, x, generator, part) if random_start else lambda: x
    ascend = partial(_ascend, logits_fn, step_size=step_size, steps=steps, validate=validate, objective=objective)
    if restarts == 1:
        return _narrow(ascend(start(), y, ball), given)
    x_adv, alive = x.clone(), torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        begun = start()  # for all: an image's noise is its own, whoever survives
        if len(alive):
            x_adv[alive] = ascend(begun[alive], y[alive], ball.take(alive))
            alive = alive[predictions(logits_fn, x_adv[alive]) == y[alive]]
    return _narrow(x_adv, given)


def first_success(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    random_start: bool = False,
    restarts: int = 1,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """After how many steps of :func:`pgd` each image is first misclassified, int64 (B,): the PGD of an evaluation.

    0 if it already is, ``steps + 1`` if never. Further steps and ``restarts`` are for survivors only. With one restart,
    accuracy after k steps is the share of values above k: one call gives the whole curve. Arguments and errors as for
    :func:`pgd`.
    """
    _check_batch(x, y)
    logits_fn = _checking_values(logits_fn, x, y, bounds)
    eps, step_size, steps, restarts = _strength(eps, step_size, steps, restarts, norm)
    x, logits_fn = _wide(x.detach(), logits_fn)
    ball = _BALLS[norm](x, eps, bounds)
    needed = torch.full_like(y, steps + 1)
    if random_start:  # which is no success yet
        needed[predictions(logits_fn, x) != y] = 0
    for _ in range(restarts):
        start = ball.random(x, generator) if random_start else x  # for all: an image's noise is its own
        alive = (needed == steps + 1).nonzero().squeeze(1)
        needed[alive] = _chase(logits_fn, start[alive], y[alive], ball.take(alive), step_size, steps, not random_start)
    return needed


def uniform_noise(
    x: Tensor, *, eps: float, bounds: Bounds = (0.0, 1.0), generator: torch.Generator | None = None
) -> Tensor:
    """x plus uniform noise in [-eps, eps], clipped to ``bounds``: what an attack of that size must beat."""
    _check_images(x)
    _check_pixels(x, bounds)
    eps, *_ = _strength(eps, 0.0, 0, 1, "linf")
    wide, _ = _wide(x.detach(), None)
    return _narrow(_LinfBall(wide, eps, bounds).random(wide, generator), x.detach())


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode inside, every module's own mode back afterwards, also after an exception."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training


class _LinfBall:
    """Pixels within eps of x and within bounds: one interval per entry, so projecting is one clamp."""

    def __init__(self, x: Tensor, eps: float, bounds: Bounds):
        self.eps = eps
        self.low, self.high = (x - eps).clamp(*bounds), (x + eps).clamp(*bounds)

    def take(self, index: Tensor) -> "_LinfBall":
        part = object.__new__(_LinfBall)
        part.eps, part.low, part.high = self.eps, self.low[index], self.high[index]
        return part

    def project(self, x_adv: Tensor) -> Tensor:
        return torch.clamp(x_adv, self.low, self.high)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign() + 0 * gradient  # torch has sign(NaN) = 0: what is not finite must stay so

    def random(self, x: Tensor, generator: torch.Generator | None, part: tuple[int, int] = (0, 1)) -> Tensor:
        noise = torch.empty_like(_whole(x, part)).uniform_(-self.eps, self.eps, generator=generator)
        return self.project(x + noise.chunk(part[1])[part[0]])


class _L2Ball:
    """Images whose difference from x has Euclidean length at most eps, within bounds."""

    def __init__(self, x: Tensor, eps: float, bounds: Bounds):
        self.x, self.eps, self.bounds = x, eps, bounds

    def take(self, index: Tensor) -> "_L2Ball":
        return _L2Ball(self.x[index], self.eps, self.bounds)

    def project(self, x_adv: Tensor) -> Tensor:
        delta = x_adv - self.x
        scale = (self.eps / _length(delta).clamp_min(1e-12)).clamp(max=1.0)
        return (self.x + delta * scale).clamp(*self.bounds)  # clamping towards x's own range only shortens delta

    def steepest(self, gradient: Tensor) -> Tensor:
        """Of length 1, however small the gradient is: its largest entry becomes 1 first. A gradient of 0 stays 0."""
        largest = gradient.abs().flatten(1).amax(dim=1).view(-1, 1, 1, 1)
        scaled = gradient / torch.where(largest == 0, 1.0, largest)
        return scaled / _length(scaled).clamp_min(1)

    def random(self, x: Tensor, generator: torch.Generator | None, part: tuple[int, int] = (0, 1)) -> Tensor:
        """Uniform in the ball: a Gaussian direction, a radius of eps u^(1/d)."""
        k, n = part
        direction = self.steepest(torch.empty_like(_whole(x, part)).normal_(generator=generator).chunk(n)[k])
        u = torch.empty(n * len(x), 1, 1, 1, dtype=x.dtype, device=x.device).uniform_(generator=generator).chunk(n)[k]
        return self.project(x + self.eps * u ** (1 / x[0].numel()) * direction)


_BALLS = {"linf": _LinfBall, "l2": _L2Ball}


def _whole(x: Tensor, part: tuple[int, int]) -> Tensor:
    """Something shaped as the batch that ``x`` is a part of, and laid out in memory as ``x`` is."""
    return x if part[1] == 1 else torch.cat([x] * part[1])


def _wide(x: Tensor, logits_fn: LogitsFn) -> tuple[Tensor, LogitsFn]:
    """Images in float32 at least, and the model as it sees them: half precision is too narrow to take steps in."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x, logits_fn) if x.dtype == wide else (x.to(wide), lambda images: logits_fn(images.to(x.dtype)))


def _narrow(x_adv: Tensor, x: Tensor) -> Tensor:
    """``x_adv`` in the dtype of ``x``, rounded towards ``x``: what is in a ball around it stays there."""
    if x.dtype == x_adv.dtype:
        return x_adv
    near, above = x_adv.to(x.dtype), x_adv > x.to(x_adv.dtype)
    beyond = torch.where(above, near.to(x_adv.dtype) > x_adv, near.to(x_adv.dtype) < x_adv)
    bits = near.view(torch.int16)  # neighbours in size are neighbours in bits
    back = torch.where(above == (near > 0), bits - 1, bits + 1).view(x.dtype)
    return torch.where(beyond, torch.where(near == 0, x, back), near)


def _length(images: Tensor) -> Tensor:
    return images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _logits_and_gradient(
    logits_fn: LogitsFn, x_adv: Tensor, y: Tensor, objective: Objective = cross_entropy
) -> tuple[Tensor, Tensor]:
    """The logits (B, K), and each image's own gradient of its objective; inside a caller's inference mode, too."""
    with torch.inference_mode(False), torch.enable_grad():
        x_adv, y = (t.clone() if t.is_inference() else t.detach() for t in (x_adv, y))
        logits = _logits(logits_fn, x_adv.requires_grad_())
        known = torch.autograd.grad(objective(logits, y), x_adv, allow_unused=True) if logits.requires_grad else [None]
    if known[0] is None:
        raise ValueError("the logits have no gradient by the images: take detach() and no_grad() out of the model")
    return logits.detach(), known[0]


def _logits(logits_fn: LogitsFn, x: Tensor) -> Tensor:
    """What the model says of ``x``. Raises TypeError unless it is a tensor, ValueError unless that is (B, K)."""
    logits = logits_fn(x)
    if not isinstance(logits, Tensor):
        key = next(iter(logits)) if isinstance(logits, dict) else 0
        raise TypeError(f"the model returns a {type(logits).__name__}: attack its logits, lambda x: model(x)[{key!r}]")
    if logits.ndim != 2 or len(logits) != len(x):
        raise ValueError(f"logits {tuple(logits.shape)} of {len(x)} images: need (B, K)")
    return logits


def _ascend(logits_fn, x_adv: Tensor, y: Tensor, ball, step_size: float, steps: int, validate: bool, objective):
    if steps == 0:
        return ball.project(x_adv.detach())
    for _ in range(steps):
        _, gradient = _logits_and_gradient(logits_fn, x_adv, y, objective)
        if validate:
            require_finite(gradient, "gradients by the image")
        x_adv = ball.project(x_adv.detach() + step_size * ball.steepest(gradient))
    return x_adv


def _chase(logits_fn, x_adv: Tensor, y: Tensor, ball, step_size: float, steps: int, start_counts: bool) -> Tensor:
    """:func:`first_success` of one ascent from ``x_adv``, whose first iterate is a success or (a random one) is none.

    The forward that says where to go from an iterate also classifies it.
    """
    needed, alive = torch.full_like(y, steps + 1), torch.arange(len(y), device=y.device)
    for step in range(steps):
        if not len(alive):
            return needed
        logits, gradient = _logits_and_gradient(logits_fn, x_adv, y[alive])
        if step or start_counts:
            survives = _classes(logits) == y[alive]
            needed[alive[~survives]] = step
            alive, x_adv, gradient, ball = alive[survives], x_adv[survives], gradient[survives], ball.take(survives)
        require_finite(gradient, "gradients by the image")
        x_adv = ball.project(x_adv + step_size * ball.steepest(gradient))
    if len(alive) and (steps or start_counts):
        needed[alive[predictions(logits_fn, x_adv) != y[alive]]] = steps
    return needed


def require_finite(images: Tensor, what: str) -> None:
    """Raises FloatingPointError if ``images`` (B, C, H, W), which are called ``what``, have NaN or infinity in them."""
    if not images.isfinite().all():
        wrong = int((~images.isfinite()).flatten(1).any(dim=1).sum())
        raise FloatingPointError(
            f"{what}: {wrong} of {len(images)} are not finite, so an attack would measure nothing. The model has "
            "diverged, or has a root at 0, a division or a logarithm in it"
        )


@torch.no_grad()
def predictions(logits_fn: LogitsFn, x: Tensor) -> Tensor:
    """The likeliest class of each image, int64 (B,).

    Raises FloatingPointError if logits are not finite: the signed gradient of a diverged model is zero, which would
    pass for robustness.
    """
    return _classes(_logits(logits_fn, x))


def _classes(logits: Tensor) -> Tensor:
    if not logits.isfinite().all():
        raise FloatingPointError(
            "the logits are not finite: the model has diverged, so an attack would measure nothing"
        )
    return logits.argmax(dim=1)


def _check_images(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"images are {x.dtype}: attacks need floating-point pixels; divide uint8 images by 255")
    if x.ndim != 4:
        raise ValueError(f"images {tuple(x.shape)}: need (B, C, H, W)")
    if not len(x):
        raise ValueError("the batch is empty: attack at least one image")


def _check_batch(x: Tensor, y: Tensor) -> None:
    _check_images(x)
    if y.dtype != torch.int64:
        raise TypeError(f"labels are {y.dtype}: attacks need int64 class indices; convert with labels.long()")
    if y.shape != x.shape[:1]:
        raise ValueError(f"images {tuple(x.shape)} and labels {tuple(y.shape)}: need (B, C, H, W) and (B,)")


def _check_pixels(x: Tensor, bounds: Bounds) -> None:
    low, high = x.min().item(), x.max().item()
    rounding = 4 * max(torch.finfo(dtype).eps for dtype in (x.dtype, torch.float32)) * max(map(abs, bounds))
    if not bounds[0] - rounding <= low <= high <= bounds[1] + rounding:  # also false for NaN
        raise ValueError(
            f"images span [{low:.4g}, {high:.4g}], outside bounds {bounds}: scale to them, standardise in the model"
        )


def _checking_values(logits_fn: LogitsFn, x: Tensor, y: Tensor, bounds: Bounds) -> LogitsFn:
    """Refuse pixels and labels; ``logits_fn`` then refuses too few classes for ``y``, at no pass of its own."""
    _check_pixels(x, bounds)
    if y.min() < 0:
        raise ValueError(f"label {y.min()} is negative: labels are class indices from 0")
    highest = y.max().item()

    def checked(x: Tensor) -> Tensor:
        logits = _logits(logits_fn, x)
        if highest >= logits.shape[1]:
            raise ValueError(f"label {highest} is out of range: the model has classes 0 to {logits.shape[1] - 1}")
        return logits

    return checked


def _strength(eps, step_size, steps, restarts, norm: str) -> tuple[float, float, int, int]:
    """The numbers as Python's own, be they numpy's or torch's. Raises ValueError on an impossible one."""
    given = (eps, step_size, steps, restarts)
    eps, step_size, steps, restarts = (n.item() if getattr(n, "ndim", None) == 0 else n for n in given)
    for name, value in [("eps", eps), ("step_size", step_size)]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{name}={value!r} is not a finite length >= 0: use the units of the images, as in 8/255")
    for name, value, least in [("steps", steps, 0), ("restarts", restarts, 1)]:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r} is not a whole number >= {least}")
    if norm not in _BALLS:
        raise ValueError(f"unknown norm {norm!r}: choose one of {', '.join(_BALLS)}")
    return eps, step_size, steps, restarts
