"""What one experiment looks like: its learning curve, its images under attack, its table of attacks.

Each of them is shown behind a training of hours. An error in one is a line in its place, and None: what is measured by
then is not lost, nor is what is shown beside it.
"""

from collections.abc import Callable
from functools import wraps

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from advlib.attacks import eval_mode
from study.data.pixels import to_pixels
from study.drawings.lessons import predictions
from study.evidence.comparisons import HEADINGS
from study.evidence.estimates import wilson
from study.experiment.evaluate import make_images
from study.experiment.precision import float32
from study.experiment.run import Experiment
from study.plan.attacks import PAPER_COLUMNS, PGD_20, Attack
from study.plan.catalogue import rule
from study.presentation.figures import PALETTE, style
from study.records import Record
from study.records.literal import one_line

LABELS = HEADINGS | {"clean": "clean"}


def costs_itself_only(show: Callable) -> Callable:
    """``show``, but any error in it, or in the drawing of its figure, is said in one line that names it."""

    @wraps(show)
    def guarded(*arguments, **options):
        try:
            shown = show(*arguments, **options)
            if isinstance(shown, Figure):
                shown.canvas.draw()  # a notebook draws it behind the cell, where nothing can catch what is wrong
            return shown
        except Exception as error:  # noqa: BLE001 - whatever it is, the run is done
            plt.close("all")  # half a figure would be shown, or would fail again
            print(f"not shown: {show.__name__} ({type(error).__name__}: {one_line(error)})")

    return guarded


@costs_itself_only
def learning_curve(record: Record) -> Figure:
    """Loss and training accuracy against epochs; the adversarial half dashed, where there is one."""
    curve = pd.DataFrame(record.curve)
    with style():
        figure, (loss, accuracy) = plt.subplots(1, 2, figsize=(8, 2.9))
        loss.plot(curve["epoch"], curve["loss"], color="black", marker="o", ms=4)
        accuracy.plot(curve["epoch"], 100 * curve["clean_accuracy"], color=PALETTE[0], marker="o", ms=4, label="clean")
        if "adversarial_accuracy" in curve:
            adversarial = 100 * curve["adversarial_accuracy"]
            accuracy.plot(curve["epoch"], adversarial, color=PALETTE[1], ls="--", marker="s", ms=4, label="adversarial")
        loss.set(title="training loss", xlabel="epoch", ylim=(0, None))
        accuracy.set(title="training accuracy (%)", xlabel="epoch", ylim=(0, 100))
        accuracy.legend(loc="lower right")
        for panel in (loss, accuracy):
            panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


@costs_itself_only
def attack_table(record: Record) -> pd.DataFrame:
    """Every attack of the record's own protocol, with its reach, accuracy in percent and Wilson 95 % interval."""
    lines = []
    for measurement in record.measurements:
        if measurement.attack["rule"] == rule(record.protocol) or measurement.name.startswith("corrected:pgd-20"):
            low, high = wilson(measurement.mask.sum(), measurement.n)
            reach = Attack(**measurement.attack).reach
            lines.append(
                {
                    "attack": measurement.name.removeprefix(f"{rule(record.protocol)}:"),
                    "reach": f"{reach * 255:.3g}/255" if measurement.attack["space"] == "pixels" else f"{reach:.3g} sd",
                    "accuracy (%)": f"{100 * measurement.accuracy:.1f}",
                    "95 % interval": f"{100 * low:.1f} to {100 * high:.1f}",
                    "images": measurement.n,
                }
            )
    return pd.DataFrame(lines).set_index("attack")


@costs_itself_only
@float32()
def gallery(experiment: Experiment) -> Figure:
    """The first six test images, clean and under three attacks, with the model's prediction and confidence.

    A frame and a cross mark a wrong prediction, so that colour alone decides nothing.
    """
    dataset, model = experiment.dataset, experiment.model
    attacks, images = (*PAPER_COLUMNS[:3], PGD_20), min(6, len(dataset.test_labels))
    y = dataset.test_labels[:images]
    generator = torch.Generator(y.device).manual_seed(experiment.record.seed)
    with style():
        figure, axes = plt.subplots(len(attacks), images, figsize=(1.25 * images, 1.55 * len(attacks)), squeeze=False)
        for panels, attack in zip(axes, attacks, strict=True):
            with eval_mode(model):
                x = make_images(model, to_pixels(dataset.test_images[:images]), y, attack, generator)
                with torch.no_grad():
                    predictions(panels, model, x, y, dataset.classes)
            panels[0].set_ylabel(LABELS[attack.column], fontsize=8)
    return figure
