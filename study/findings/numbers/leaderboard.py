"""Our rows among published ones: accuracy under attacks of 8/255, each with what the number is. No torch.

The published figures are ``leaderboard.toml``: facts with their sources, of ResNet-18 and its like on CIFAR-10. A
number under one attack is no number under another, so every line says the attack, and ours the images and the budget.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from markupsafe import Markup

from study.evidence import comparisons
from study.evidence.comparisons import HEADINGS, STRONG
from study.evidence.selection import Group, rows_run, runs_of
from study.plan.catalogue import CIFAR_TRAINING
from study.plan.config import Config
from study.presentation.markup import NO_NUMBER, element, length, row, span, table

KNOWN_ATTACKS = ("AutoAttack", "PGD-20", "PGD-10")  # from the strongest
EPS = "8/255"


@dataclass(frozen=True)
class Source:
    """Where to find a paper or its code; its key is that of ``book/references.bib``."""

    label: str
    url: str


@dataclass(frozen=True)
class Figure:
    """A published accuracy under attack, in percent."""

    paper: str  # key of the source that trained the network
    source: str  # key of the source that measured it
    place: str  # where in that source
    network: str
    training: str
    data: str
    robust: float
    attack: str
    clean: float | None = None
    claimed: float | None = None  # by the paper, where somebody else measured ``robust``
    note: str = ""
    weaker: Mapping[str, float] = field(default_factory=dict)  # attack -> accuracy, of the same network

    @property
    def what(self) -> str:
        """What the number is."""
        parts = [f"{self.attack}, eps {EPS}", self.note]
        parts += [f"{attack} leaves {value:.2f}" for attack, value in self.weaker.items()]
        return "; ".join(filter(None, parts))


@dataclass(frozen=True)
class Line:
    """One line of the board. Accuracies in percent."""

    robust: float
    clean: float | None
    who: Markup
    network: str
    training: str
    what: str
    kind: str  # "published", or our budget: "lite" or "full"

    def digits(self, accuracy: float) -> str:
        return f"{accuracy:.2f}" if self.kind == "published" else f"{accuracy:.1f}"


def why_lower(group: Group) -> str:
    """What separates our rows from the published ones, from the values of our configs, as Markdown."""
    ours, full = runs_of(group, *_first(group))[0].as_config(), Config()
    images = group[0].data["train_images"]
    sizes = []
    if ours.width < full.width:
        sizes.append(f"their width is {ours.width}, where a ResNet-18 has {full.width}")
    if images < CIFAR_TRAINING:
        sizes.append(f"they have seen {images:,} training images of {CIFAR_TRAINING:,}")
    if ours.epochs < full.epochs:
        sizes.append(f"for {ours.epochs} epochs, where budget full takes {full.epochs}")
    said = f"Our networks are of budget **{group[0].budget}**"
    said += f": {', '.join(sizes)}. They are " if sizes else ", and are "
    return (
        f"{said}trained on clean and attacked images alike, and the paper's training attack takes {ours.train_steps} "
        f"steps of {length(ours.train_step_size)}, so it reaches {length(ours.reach)}, while all are tested at {EPS}. "
        f"{'Size, data and time' if sizes else 'The training attack'} alone would put them lower; that they stand "
        "lower says nothing about the techniques. Our networks are comparable with each other."
    )


def board(group: Group | None) -> str:
    """The table of :func:`lines`, as HTML."""
    body = [
        row(
            line.who,
            [
                line.kind,
                line.digits(line.robust),
                NO_NUMBER if line.clean is None else line.digits(line.clean),
                line.what,
                line.network,
                line.training,
            ],
            "" if line.kind == "published" else "ours",
        )
        for line in lines(group)
    ]
    caption = (
        "Accuracy in percent under attacks of 8/255 on CIFAR-10, the most robust first. Numbers under different "
        "attacks, or of networks of different size, do not rank each other: the columns say which they are."
    )
    return table(
        ["Who", "Kind", "Robust", "Clean", "What the number is", "Network", "Training"], body, caption, "words"
    )


def stronger_attack(tested: int = 0) -> str:
    """How much less AutoAttack leaves than a weaker attack on the same networks, as Markdown.

    ``tested``: how many of our networks AutoAttack was run on.
    """
    gaps = [value - one.robust for one in figures() for value in one.weaker.values() if one.attack == "AutoAttack"]
    weaker = {attack for one in figures() for attack in one.weaker if one.attack == "AutoAttack"}
    return (
        f"On the {len(gaps)} networks of this table that were tested both ways, AutoAttack leaves {min(gaps):.1f} to "
        f"{max(gaps):.1f} points less than {' or '.join(sorted(weaker))}. Ours stand here by PGD-20. "
        + (f"[AutoAttack](trust.html) was run on {tested} of them." if tested else "AutoAttack was run on none.")
    )


def claims_fell() -> str:
    """What became of papers' own figures when somebody else measured, as Markdown."""
    fell = [(one.claimed - one.robust, one) for one in figures() if one.claimed is not None]
    lower = [(gap, one) for gap, one in fell if round(gap, 2) > 0]
    most = max(lower, key=lambda pair: pair[0])[1]
    return (
        f"Of {len(fell)} figures that a paper claimed and RobustBench measured again, {len(lower)} came out lower, the "
        f"most that of {sources()[most.paper].label}: {most.claimed:.2f} claimed, {most.robust:.2f} left."
    )


def lines(group: Group | None) -> list[Line]:
    """Published figures and our rows of Table 1, corrected protocol, the most robust first."""
    found = [_published(one) for one in figures()]
    for key, paper in rows_run(group, "corrected").items() if group else ():
        found.append(_ours(group, key, paper.label, ""))
        if paper.advprop:
            found.append(_ours(group, key, paper.label, ":aux"))
    return sorted(found, key=lambda line: -line.robust)


@cache
def figures() -> tuple[Figure, ...]:
    """The published figures. Raises ValueError or TypeError on an entry that cannot be meant."""
    return check([Figure(**entry) for entry in _file()["figure"]], sources())


@cache
def sources() -> dict[str, Source]:
    return {key: Source(**entry) for key, entry in _file()["sources"].items()}


def check(found: list[Figure], known: Mapping[str, Source]) -> tuple[Figure, ...]:
    """``found``, if each has its sources, a known attack and a share in percent; ValueError, naming it, otherwise."""
    for one in found:
        name = f"the figure of {one.paper!r} at {one.place!r}"
        if absent := {one.paper, one.source} - set(known):
            raise ValueError(f"{name} has no source {', '.join(sorted(absent))}: add it to leaderboard.toml")
        if one.attack not in KNOWN_ATTACKS or set(one.weaker) - set(KNOWN_ATTACKS):
            raise ValueError(f"{name} is under an unknown attack: those known are {', '.join(KNOWN_ATTACKS)}")
        values = [v for v in (one.robust, one.clean, one.claimed, *one.weaker.values()) if v is not None]
        if not all(0 <= value <= 100 for value in values):
            raise ValueError(f"{name} has an accuracy outside 0 to 100: write percent")
    return tuple(found)


def _file() -> dict:
    return tomllib.loads((files("study.findings.numbers") / "leaderboard.toml").read_text(encoding="utf-8"))


def _published(one: Figure) -> Line:
    paper, source = (sources()[key] for key in (one.paper, one.source))
    who = _link(paper)
    if source != paper:
        who += span("interval wrap", "measured by ", _link(source))
    return Line(one.robust, one.clean, who, one.network, f"{one.training}; {one.data}", one.what, "published")


def _link(source: Source) -> Markup:
    return element("a", source.label, href=source.url)


def _ours(group: Group, key: str, label: str, branch: str) -> Line:
    places = [(key, "corrected", f"corrected:{column}{branch}") for column in ("clean", STRONG)]
    clean, robust = (comparisons.accuracies(group, [place])[0] for place in places)
    run = runs_of(group, key, "corrected")[0]
    attack, first = run.measurement(f"corrected:{STRONG}{branch}").attack, group[0]
    steps = f"{attack['restarts']} starts of {attack['steps']} steps"
    gradients = ", true and surrogate gradient" if run.config["activation"] == "surrogate-relu" else ""
    seeds = "" if robust.seeds == 1 else f", {robust.seeds} trainings"
    return Line(
        100 * robust.value,
        100 * clean.value,
        element("strong", label + (", auxiliary branch" if branch else ""))
        + span("interval", f"here, budget {first.budget}"),
        f"ResNet-18, width {first.config['width']}",
        f"{run.config['epochs']} epochs; {run.data['train_images']:,} images of {first.data['title']}",
        f"{HEADINGS[STRONG].split()[0]}, eps {length(attack['eps'])}, {robust.n:,} images{seeds}; {steps}{gradients}",
        first.budget,
    )


def _first(group: Group) -> tuple[str, str]:
    """A row of Table 1 with adversarial training, under the corrected protocol, or any row if there is none."""
    keys = [key for key, paper in rows_run(group, "corrected").items() if paper.adversarial]
    return (keys[0], "corrected") if keys else (group[0].key, group[0].protocol)
