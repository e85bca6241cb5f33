"""Images under attack, side by side for networks in ``models``: a still from the explorer's data. No torch."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from study.findings.explorer import report
from study.plan import catalogue
from study.presentation.figures import picture, style
from study.presentation.words import Words
from study.records import packing

ATTACK = "pgd-10"
Seen = tuple[str, str]  # a network's row, and the branch that is attacked and classifies


def gallery(data: dict, seen: Sequence[Seen] = (), eps: int = 8, images: int = 8) -> Figure:
    """One line of images as they are, then a line for each network: the image after PGD-10, and what it takes it for.

    A cross and a frame mark a wrong prediction. ``data`` is that of :func:`report.read`; ``seen``: which networks, all
    through their main branch by default; ``eps`` of 255.
    """
    clean, labels = report.clean(data), data["images"]["labels"]
    lines = list(_attacked(data, seen, eps))
    with style():
        figure, panels = plt.subplots(
            1 + len(lines), images, figsize=(1.2 * images, 1.42 * (1 + len(lines))), squeeze=False
        )
        for panel, pixels, label in zip(panels[0], clean, labels, strict=False):
            picture(panel, pixels / 255, data["classes"][label])
        panels[0, 0].set_ylabel("the image", fontsize=8)
        for line, (name, pixels, probabilities) in zip(panels[1:], lines, strict=True):
            line[0].set_ylabel(name, fontsize=8)
            for k, panel in enumerate(line):
                predicted = int(np.argmax(probabilities[k]))
                sure = f"{data['classes'][predicted]} {100 * probabilities[k][predicted] / report.WHOLE:.0f} %"
                picture(panel, pixels[k] / 255, sure, wrong=predicted != labels[k])
    return figure


def words(data: dict, seen: Sequence[Seen] = (), eps: int = 8, images: int = 8) -> Words:
    """Caption and description of the gallery, from the data."""
    labels = data["images"]["labels"][:images]
    right = [
        f"{name} {sum(int(np.argmax(p)) == label for p, label in zip(probabilities, labels, strict=False))}"
        for name, _, probabilities in _attacked(data, seen, eps)
    ]
    return {
        "caption": f"The first test image of each of {len(labels)} classes in {data['data']['title']}, and the same "
        f"image after PGD-10 of eps {eps}/255 on each network, with the class that it sees and how sure it is. Crossed "
        "and framed: wrong. Small setting, corrected protocol; a few images prove nothing.",
        "alt": f"A grid of small pictures that look alike down each column. Of {len(labels)} attacked images each "
        f"network sees so many right: {', '.join(right)}.",
    }


def _attacked(data: dict, seen: Sequence[Seen], eps: int):
    """(name, pixels (N, H, W, C), probabilities (N, K)) of each network. KeyError on one that is not in the data."""
    clean, size = report.clean(data), data["eps"].index(eps)
    rows = {row["key"]: row for row in data["rows"]}
    for key, branch in seen or [(key, "main") for key in rows]:
        found = rows[key]["branches"][branch][ATTACK]
        added = packing.unpack(found["perturbation"], (len(data["eps"]), *clean.shape), np.int8)
        pixels = (clean.astype(int) + added[size]).astype(np.uint8)
        name = catalogue.rows()[key].label + (f",\n{branch} branch" if seen and len(rows[key]["branches"]) > 1 else "")
        yield name, pixels, found["probabilities"][size]
