"""How the networks learn, and what that costs. No torch."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.evidence.selection import Group, rows_run, runs_of
from study.plan import catalogue
from study.presentation.figures import style
from study.presentation.marks import legend, look
from study.presentation.markup import row, table
from study.presentation.words import Words, source


def learning(group: Group, protocol: str = "corrected") -> Figure:
    """Training loss, and training accuracy on clean and adversarial images, against epochs: the rows of Table 1."""
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.9), sharex=True)
        names = ("loss", "clean_accuracy", "adversarial_accuracy")
        titles = ("training loss", "clean images (%)", "adversarial images (%)")
        for panel, name, heading in zip(panels, names, titles, strict=True):
            for key, row in rows_run(group, protocol).items():
                found = runs_of(group, key, protocol)
                if name in found[0].curve[0]:
                    values = np.mean([[epoch[name] for epoch in run.curve] for run in found], axis=0)
                    values = values if name == "loss" else 100 * values
                    panel.plot(range(1, len(values) + 1), values, ms=5, lw=1.4, label=row.label, **look(row))
            panel.set(title=heading, xlabel="epoch", ylim=(0, None))
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, 5, columnspacing=1.2)
    return figure


def learning_words(group: Group, protocol: str = "corrected") -> Words:
    last = [
        f"{row.label} {100 * np.mean([run.curve[-1]['clean_accuracy'] for run in runs_of(group, key, protocol)]):.0f} %"
        for key, row in rows_run(group, protocol).items()
    ]
    return {
        "caption": f"How the methods of Table 1 learn, {protocol} protocol: on training images as they are augmented "
        f"and attacked. {source(group, catalogue.part(1), protocol, intervals='')}",
        "alt": "Three panels against epochs: training loss, training accuracy on clean images and on adversarial "
        f"images. Clean training accuracy in the last epoch: {', '.join(last)}.",
    }


def cost(group: Group) -> str:
    """What it takes to train a row of Table 1, as HTML: counted in passes, which no other work on a machine changes."""
    body = []
    for key, paper in catalogue.part(1).items():
        for protocol in catalogue.PROTOCOLS:
            if found := runs_of(group, key, protocol):
                passes, batches = found[0].cost["passes_per_step"], found[0].cost["steps"]
                config = found[0].as_config()
                steps = batches * (2 if config.adversarial and config.update == "two-steps" else 1)
                total = batches * (passes["forward"] + passes["backward"])
                cells = [protocol, f"{passes['forward']} + {passes['backward']}", f"{steps:,}", f"{total:,}"]
                body.append(row(paper.label, cells))
    caption = (
        "Cost of a training. Passes: forward and backward passes that a mini-batch takes; compare methods at equal "
        "passes before comparing their accuracy. The released code takes two optimiser steps a mini-batch where it "
        "trains on attacked images. How long a pass takes is on the page of performance."
    )
    return table(["Method", "Protocol", "Passes a mini-batch", "Optimiser steps", "Passes in all"], body, caption)


def trained_in(runs: Group) -> str:
    """ "trained in bfloat16: " where a published row was not trained in the released code's float32 (point 19)."""
    others = sorted({record.provenance["precision"] for record in runs} - {"float32"})
    return f"trained in {', '.join(others)}: " if others and runs[0].protocol == "published" else ""
