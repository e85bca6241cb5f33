"""Images under attack, side by side for every network in ``models``: a still from the explorer's data. No torch."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from study.findings.explorer import report
from study.plan import catalogue
from study.presentation.figures import picture, style
from study.records import packing

ATTACK, EPS = "pgd-10", 8  # of 255


def gallery(data: dict, images: int = 8) -> Figure:
    """One line of images as they are, then a line for each network: the image after PGD-10, and what it takes it for.

    A cross and a frame mark a wrong prediction. ``data`` is that of :func:`report.read`.
    """
    clean, labels = report.clean(data), data["images"]["labels"]
    lines = list(_attacked(data))
    with style():
        figure, panels = plt.subplots(1 + len(lines), images, figsize=(1.2 * images, 1.42 * (1 + len(lines))))
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


def words(data: dict, images: int = 8) -> dict[str, str]:
    """Caption and description of the gallery, from the data."""
    labels = data["images"]["labels"][:images]
    right = [
        f"{name} {sum(int(np.argmax(p)) == label for p, label in zip(probabilities, labels, strict=False))}"
        for name, _, probabilities in _attacked(data)
    ]
    return {
        "caption": f"The first test image of each of {len(labels)} classes in {data['data']['title']}, and the same "
        f"image after PGD-10 of eps {EPS}/255 on each network of the folder models, through its main batch norm, with "
        "the class that it sees and how sure it is. Crossed and framed: wrong.",
        "alt": f"A grid of small pictures that look alike down each column. Of {len(labels)} attacked images each "
        f"network sees so many right: {', '.join(right)}.",
    }


def _attacked(data: dict):
    """(name, pixels (N, H, W, C), probabilities (N, K)) of each network, through its main batch norm."""
    clean, size = report.clean(data), data["eps"].index(EPS)
    for row in data["rows"]:
        seen = row["branches"]["main"][ATTACK]
        added = packing.unpack(seen["perturbation"], (len(data["eps"]), *clean.shape), np.int8)
        pixels = (clean.astype(int) + added[size]).astype(np.uint8)
        yield catalogue.rows()[row["key"]].label, pixels, seen["probabilities"][size]
