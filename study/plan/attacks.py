"""The attack suite as data: what every trained model goes through, whatever it was trained with. No torch here.

Each :class:`Attack` says in full how images are made and how they are classified, so the two protocols, and every
mixture of their switches, are values of one type. :mod:`study.experiment.evaluate` carries them out, and a record that
has not all of them is no record.
"""

from dataclasses import dataclass, replace

from study.plan.config import CHOICES


@dataclass(frozen=True)
class Attack:
    """One way to make images from the test set, and one way to classify them. Lengths are in the units of ``space``."""

    column: str  # of a table or sweep, e.g. "fgsm-0.1"
    rule: str = "corrected"  # "published", "corrected", or what was changed between the two
    method: str = "pgd"  # "none", "noise", "fgsm" or "pgd"
    eps: float = 0.0
    step_size: float = 0.0
    steps: int = 0
    random_start: bool = False
    restarts: int = 1
    norm: str = "linf"
    stop: str = "last-step"  # classify the last iterate, or count an image lost at its "first-success"
    also_after: tuple[int, ...] = ()  # first-success only: fewer steps to report from the same ascent
    branch: str = "main"  # batch norm that classifies
    through: str = "main"  # batch norm that is attacked: a transfer attack if it is another
    gradient: str = "true"  # of the activations while attacking: "true", or "surrogate"
    space: str = "pixels"  # where eps is measured and images are clamped to [0, 1]: "pixels" or "standardised"
    statistics: str = "running"  # of batch norm, while attacking and classifying: "running", or "batch"
    images: str = "all"  # of the test images: "all", the first ones that "strong" attacks get, or those of a "sweep"

    def __post_init__(self):
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose one of {', '.join(choices)}")
        plain = (self.through, self.space, self.statistics) == (self.branch, "pixels", "running")
        if self.stop == "first-success" and not (self.method == "pgd" and plain):
            raise ValueError(
                f"{self.name}: first-success is for PGD on pixels, through the branch that classifies, in eval mode"
            )
        if self.also_after and (self.stop != "first-success" or self.restarts > 1):
            raise ValueError(f"{self.name}: also_after needs first-success and a single restart")

    @property
    def name(self) -> str:
        """Unique in a suite: rule, column, and whatever is not the usual branch and gradient."""
        marks = []
        if self.through != self.branch:
            marks.append(f"{self.through}-to-{self.branch}")
        elif self.branch != "main":
            marks.append(self.branch)
        if self.gradient != "true" and self.rule == "corrected":
            marks.append(self.gradient)
        return ":".join([self.rule, self.column, *marks])

    @property
    def reach(self) -> float:
        """How far the attack can move an entry or image: min(eps, steps x step size), or eps from a random start."""
        return self.eps if self.random_start or self.method != "pgd" else min(self.eps, self.steps * self.step_size)

    @property
    def specification(self) -> dict:
        """What a record says of it: every field but the other numbers of steps, which are attacks there."""
        return {name: value for name, value in vars(self).items() if name != "also_after"}

    @property
    def reported(self) -> "list[Attack]":
        """One attack for each number of steps that the same ascent tells of; in the end itself."""
        column = self.column.rsplit("-", 1)[0]
        fewer = [replace(self, steps=k, column=f"{column}-{k}", also_after=()) for k in self.also_after]
        return [*fewer, replace(self, also_after=())]


_CHOICES = {
    "method": ("none", "noise", "fgsm", "pgd"),
    "stop": ("last-step", "first-success"),
    "branch": CHOICES["attack_branch"],
    "through": CHOICES["attack_branch"],
    "gradient": ("true", "surrogate"),
    "space": ("pixels", "standardised"),
    "statistics": ("running", "batch"),
    "images": ("all", "strong", "sweep"),
}

PIXEL = 1 / 255
PAPER_COLUMNS = (
    Attack("clean", method="none"),
    Attack("fgsm-0.1", method="fgsm", eps=0.1),
    Attack("pgd-0.1", eps=0.1, step_size=2 * PIXEL, steps=2),
    Attack("fgsm-0.5", method="fgsm", eps=0.5),
    Attack("pgd-0.5", eps=0.5, step_size=0.5, steps=2),  # the step size of the table's header
)
CODE_PGD = Attack("pgd-0.5-code", eps=0.5, step_size=2 * PIXEL, steps=2)  # the step size the released code evaluates
CLAMP_ALONE = Attack("clamp-alone", method="fgsm", eps=0.0)  # the control: no attack, only the published clamp
PGD_20 = Attack(
    "pgd-20-8/255",
    eps=8 * PIXEL,
    step_size=2 * PIXEL,
    steps=20,
    random_start=True,
    restarts=2,
    stop="first-success",
    images="strong",
)
STEPS = Attack(
    "steps-50",
    eps=8 * PIXEL,
    step_size=2 * PIXEL,
    steps=50,
    stop="first-success",
    also_after=(1, 2, 5, 10, 20),
    images="sweep",
)
SWEEP_EPS = (1, 2, 4, 8, 16)  # of 255
NOISE_EPS = (("8/255", 8 * PIXEL), ("0.1", 0.1), ("0.5", 0.5))


def suite(*, dual: bool, surrogate: bool) -> list[Attack]:
    """The attacks for a model with or without an auxiliary branch, with or without surrogate gradients.

    The published rule attacks and classifies through the main branch with the gradients the model was trained with.
    """
    trained = "surrogate" if surrogate else "true"
    published = {"space": "standardised", "statistics": "batch", "gradient": trained}
    mixtures = {
        "published": published,
        "published, running statistics": published | {"statistics": "running", "images": "sweep"},
        "published, pixels": published | {"space": "pixels", "images": "sweep"},
    }
    if surrogate:
        mixtures["published, true gradient"] = published | {"gradient": "true", "images": "sweep"}
    attacks = [*PAPER_COLUMNS, CODE_PGD]
    for rule, changes in mixtures.items():
        attacks += [replace(a, rule=rule, **changes) for a in (*PAPER_COLUMNS, CODE_PGD, CLAMP_ALONE)]
    attacks += [PGD_20, STEPS]
    attacks += [Attack(f"noise-{name}", method="noise", eps=eps, images="sweep") for name, eps in NOISE_EPS]
    for pixels in SWEEP_EPS:
        eps = pixels * PIXEL
        attacks.append(Attack(f"fgsm-{pixels}/255", method="fgsm", eps=eps, images="sweep"))
        attacks.append(
            Attack(f"pgd-10-{pixels}/255", eps=eps, step_size=eps / 4, steps=10, stop="first-success", images="sweep")
        )
    if dual:
        attacks += [replace(a, branch="aux", through="aux") for a in (*PAPER_COLUMNS, PGD_20)]
        transferred = [replace(a, stop="last-step", restarts=1, images="sweep") for a in (*PAPER_COLUMNS[1:], PGD_20)]
        attacks += [replace(a, branch="main", through="aux") for a in transferred]
        attacks += [replace(a, branch="aux", through="main") for a in transferred]
    if surrogate:
        attacks += [replace(a, gradient="surrogate") for a in (*PAPER_COLUMNS[1:], CODE_PGD, PGD_20)]
    if dual and surrogate:
        through_aux = {"branch": "aux", "through": "aux", "gradient": "surrogate", "images": "sweep"}
        attacks += [replace(a, **through_aux) for a in (*PAPER_COLUMNS[1:], PGD_20)]
    return attacks
