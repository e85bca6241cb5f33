"""Networks under corruptions as they are read: tables, sentences, figures and what those say in words. No torch."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.findings.corruptions import judge
from study.findings.corruptions.judge import COMMON, EXAMPLES, EXTRA, GROUPS, KINDS, SEVERITIES, Network
from study.presentation import markup
from study.presentation.figures import picture, style
from study.presentation.marks import legend, look, shades
from study.presentation.markup import together
from study.presentation.words import Words, percent
from study.records import packing
from study.records.literal import literal

AGAINST = {"traditional": "Traditional", "adversarial": "Adversarial"}  # rows that the others are set against


def summary(networks: Sequence[Network]) -> str:
    """What came out, as a list of Markdown: the network that keeps most, AdvProp, and each against plain training.

    All comparisons of one question share an error of 5 % (Bonferroni), so these intervals are wider than the tables'.
    """
    masks = [network.masks(COMMON) for network in networks]
    best = max(range(len(networks)), key=lambda k: np.mean(masks[k]))
    sentences = [
        (
            f"Of {len(networks)} networks, **{title(networks[best])}** has the highest accuracy on corrupted images, "
            f"{percent(judge.accuracy(masks[best]))}, against {percent(judge.accuracy(networks[best].clean))} on the "
            f"same images as they are{_level(networks, networks[best])}."
        )
    ]
    asked = [(network, key) for network in networks if network.key == "advprop" for key in AGAINST]
    sentences += [_advprop(networks, network, key, _shared(asked)) for network, key in asked]
    others = [network for network in networks if network.key != "traditional"]
    sentences += [_groups(networks, network, _shared(others * len(GROUPS))) for network in others]
    sentences.append(
        f"The intervals in these sentences are wider than those in the tables: the {len(asked)} comparisons of AdvProp "
        f"share an error of 5 %, and so do the {len(others) * len(GROUPS)} with Traditional by group."
    )
    return "\n".join(f"- {sentence}" for sentence in sentences if sentence)


def overview(networks: Sequence[Network]) -> str:
    """A line a network, as HTML: right without corruption, right in the mean of all, and against two other rows."""
    body = [
        markup.row(
            together([title(network), markup.span("interval", markup.links(network.records))]),
            [
                markup.accuracy(judge.accuracy(network.clean)),
                markup.accuracy(judge.accuracy(network.masks(COMMON))),
                *(_points(judge.compared(networks, network, key)) for key in AGAINST),
            ],
        )
        for network in networks
    ]
    heads = ["Network", "As they are", "Corrupted", *(f"against {label}" for label in AGAINST.values())]
    caption = (
        f"Accuracy in percent on {_images(networks)} test images, as they are and in the mean over {len(COMMON)} "
        f"corruptions at {len(SEVERITIES)} severities, and the difference in percentage points from two methods on the "
        "same images. 95 % intervals, each by itself; bold where it excludes zero."
    )
    return markup.table(heads, body, caption)


def by_group(networks: Sequence[Network]) -> str:
    """Accuracy in each group of corruptions, as HTML, with the difference from plain training below."""
    groups = GROUPS | {"extra kinds": EXTRA}
    if not set(EXTRA) <= set(_kinds(networks)):
        groups.pop("extra kinds")
    body = []
    for network in networks:
        cells = []
        for kinds in groups.values():
            against = judge.compared(networks, network, "traditional", kinds)
            below = markup.change(against) if against else ""
            cells.append(together([f"{100 * judge.accuracy(network.masks(kinds)).value:.1f}", below]))
        body.append(markup.row(title(network), cells))
    caption = (
        f"Accuracy in percent in the mean over the kinds of a group at {len(SEVERITIES)} severities. Below it the "
        "difference from Traditional in percentage points, paired by image, with its 95 % interval."
    )
    return markup.table(["Network", *groups], body, caption)


def by_severity(networks: Sequence[Network]) -> Figure:
    """Accuracy against severity, a panel a group of corruptions; at 0, the images as they are."""
    with style():
        figure, panels = plt.subplots(1, len(GROUPS), figsize=(10.4, 3.6), sharey=True)
        for panel, (group, kinds) in zip(panels, GROUPS.items(), strict=True):
            for network in networks:
                means = [np.mean(network.clean), *(np.mean(network.masks(kinds, [s])) for s in SEVERITIES)]
                label = title(network)
                panel.plot([0, *SEVERITIES], 100 * np.array(means), ms=5, lw=1.4, label=label, **look(network.row))
            panel.set(title=group, xlabel="severity", ylim=(0, 100), xticks=[0, *SEVERITIES])
        panels[0].set_ylabel("accuracy (%)")
        legend(figure, 6, columnspacing=1.2)
    return figure


def by_kind(networks: Sequence[Network]) -> Figure:
    """Accuracy under each kind of corruption, in the mean over severities: a line a network, numbers and shades."""
    kinds = _kinds(networks)
    grid = [[100 * np.mean(network.masks([kind])) for kind in kinds] for network in networks]
    with style():
        figure, panel = plt.subplots(figsize=(10.4, 2.0 + 0.36 * len(networks)))
        shades(panel, grid, [name(kind) for kind in kinds], [title(network) for network in networks], size=8)
        place = 0
        for group, members in (GROUPS | {"extra kinds": EXTRA}).items():
            shown = sum(kind in members for kind in kinds)
            if shown:
                panel.annotate(group, (place + shown / 2, 0), (0, 4), textcoords="offset points", ha="center")
                place += shown
                panel.axvline(place, color="white", lw=3)
        panel.tick_params(axis="x", rotation=50)
        plt.setp(panel.get_xticklabels(), ha="right", rotation_mode="anchor")
        panel.tick_params(axis="y", rotation=0)
    return figure


def words(networks: Sequence[Network], group: Group) -> dict[str, Words]:
    """Captions and descriptions of the two figures, by their names here."""
    about = f"Budget {group[0].budget}, {group[0].data['title']}, {_images(networks)} test images."
    means = ", ".join(f"{title(n)} {percent(judge.accuracy(n.masks(COMMON)))}" for n in networks)
    worst = ", ".join(f"{title(n)} {100 * np.mean(n.masks(COMMON, [SEVERITIES[-1]])):.1f} %" for n in networks)
    return {
        "by_kind": {
            "caption": f"Accuracy in percent under each corruption, in the mean over its severities. {about}",
            "alt": "A table as shades and numbers: a line for each network, a column for each kind of corruption, in "
            f"groups. In the mean over the common kinds: {means}.",
        },
        "by_severity": {
            "caption": "Accuracy against the severity of the corruption, in the mean over the kinds of each group; at "
            f"severity 0 the images as they are. {about}",
            "alt": "Four panels, noise, blur, weather and digital, a falling line for each network. At the highest "
            f"severity, in the mean over all common kinds: {worst}.",
        },
    }


def examples(root: Path, group: Group) -> dict | None:
    """The image that is shown under every corruption, or None where nobody made it.

    Raises ValueError, with the remedy, if the file is damaged or of other data.
    """
    path = Path(root).joinpath(*Path(group[0].where).parts[:2], EXAMPLES)
    if not path.is_file():
        return None
    remedy = f"make it anew: {judge.Corruptions.command(group[0])}"
    with packing.reading(path, remedy) as data:
        for kind in ("clean", *KINDS):
            _pixels(data, kind)
        checksum = data["checksum"]
    if checksum != group[0].data["checksum"]:
        raise ValueError(f"{path} is of other data than the records beside it: {remedy}")
    return data


def _pixels(data: dict, kind: str) -> np.ndarray:
    """uint8 (H, W, 3) of the image of :func:`examples` under one corruption."""
    return packing.unpack(data["pixels"][kind], (*data["size"], 3), np.uint8)


def strip(data: dict) -> Figure:
    """The image of :func:`examples` as it is, then under every corruption."""
    columns = 7
    with style():
        rows = -(-len(data["pixels"]) // columns)
        figure, panels = plt.subplots(rows, columns, figsize=(1.35 * columns, 1.6 * rows))
        for panel in panels.flat:
            panel.axis("off")
        for panel, kind in zip(panels.flat, ["clean", *KINDS], strict=False):
            panel.axis("on")
            picture(panel, _pixels(data, kind) / 255, "the image" if kind == "clean" else name(kind))
    return figure


def strip_words(data: dict) -> Words:
    kinds = ", ".join(name(kind) for kind in KINDS)
    return {
        "caption": f"One test image, and the same image under every corruption at severity {data['severity']} of "
        f"{len(SEVERITIES)}.",
        "alt": f"Small pictures of one image: as it is, then under {kinds}. Under some, it is hard to make out.",
    }


def made_by(networks: Sequence[Network]) -> str:
    """Which versions made the corrupted images, as a sentence."""
    versions = {tuple(found.made_by.items()) for network in networks for found in network.measured}
    said = "; ".join(", ".join(f"{name} {number}" for name, number in one) for one in versions)
    return f"Spoilt by {literal(said)}."


def name(kind: str) -> str:
    """ "jpeg_compression" as it is read."""
    return kind.replace("_", " ").replace("jpeg", "JPEG")


def title(network: Network) -> str:
    """The row, and its training where that is not the corrected one."""
    return network.row.name + ("" if network.protocol == "corrected" else f", {network.protocol}")


def _shared(comparisons: Sequence) -> float:
    """The confidence of each of so many intervals."""
    return 1 - 0.05 / max(1, len(comparisons))


def _level(networks: Sequence[Network], best: Network) -> str:
    """The networks of its protocol that ``best`` is not ahead of for certain, as the end of a sentence."""
    found = {
        title(one): judge.compared(networks, best, one.key, confidence=_shared(networks[1:]))
        for one in networks
        if one.protocol == best.protocol
    }
    level = [name for name, lead in found.items() if lead and lead.sign < 1]
    return f"; it cannot be told from {_listed(level)}" if level else ""


def _advprop(networks: Sequence[Network], network: Network, key: str, confidence: float) -> str:
    found = judge.compared(networks, network, key, confidence=confidence)
    if found is None:
        return ""
    said = {1: "is more accurate than", -1: "is less accurate than", 0: "cannot be told from"}
    return f"On corrupted images {title(network)} {said[found.sign]} {AGAINST[key]}: {markup.interval(found)} points."


def _groups(networks: Sequence[Network], network: Network, confidence: float) -> str:
    found = {
        group: judge.compared(networks, network, "traditional", kinds, confidence) for group, kinds in GROUPS.items()
    }
    if None in found.values():
        return ""
    told = {
        "gains under": [f"{group} {markup.interval(e)} points" for group, e in found.items() if e.sign > 0],
        "loses under": [f"{group} {markup.interval(e)} points" for group, e in found.items() if e.sign < 0],
    }
    parts = [f"{verb} {_listed(groups)}" for verb, groups in told.items() if groups]
    return f"Against Traditional, {title(network)} {', and '.join(parts) or 'differs in no group for certain'}."


def _kinds(networks: Sequence[Network]) -> list[str]:
    """The kinds that every network was measured on."""
    return [kind for kind in KINDS if all(kind in found.pixels for n in networks for found in n.measured)]


def _images(networks: Sequence[Network]) -> str:
    return markup.counts(sorted({found.images for network in networks for found in network.measured}))


def _points(estimate: Estimate | None) -> str:
    return markup.points(estimate) if estimate else markup.NO_NUMBER


def _listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
