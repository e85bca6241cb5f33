"""AdvProp's two sets of batch-norm statistics, read from a trained network's file."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from advlib.norm import BRANCHES
from study.experiment.weights import contents
from study.presentation.figures import PALETTE, style

STATE = ("running_mean", "running_var", "weight", "bias")  # of a batch norm: mu, sigma^2, gamma, beta


@dataclass(frozen=True)
class DualLayer:
    """One dual batch norm: for each branch, and each name of :data:`STATE`, an array with a value a channel."""

    name: str  # "stem_norm", "blocks.2.shortcut_norm", ...
    main: dict[str, np.ndarray]
    aux: dict[str, np.ndarray]

    @property
    def shortcut(self) -> bool:
        return self.name.endswith("shortcut_norm")

    @property
    def shift(self) -> np.ndarray:
        """How far the auxiliary mean lies from the main one, channel by channel, in main standard deviations."""
        return (self.aux["running_mean"] - self.main["running_mean"]) / np.sqrt(self.main["running_var"])

    @property
    def ratio(self) -> np.ndarray:
        """Auxiliary standard deviation over the main one, channel by channel."""
        return np.sqrt(self.aux["running_var"] / self.main["running_var"])


def read(path: Path) -> list[DualLayer]:
    """The dual batch norms of a file of :mod:`experiment.weights`, in the order of the network.

    Raises ValueError if the file has none: the network was trained without AdvProp; and what reading it raises.
    """
    state = {name: t.double().numpy() for name, t in contents(path).items()}
    names = [name.removesuffix(".main.weight") for name in state if name.endswith(".main.weight")]
    if not names:
        raise ValueError(f"{path} has no dual batch norm: choose a network with AdvProp, such as advprop.safetensors")
    return [
        DualLayer(name, *({key: state[f"{name}.{branch}.{key}"] for key in STATE} for branch in BRANCHES))
        for name in sorted(names, key=lambda name: (name != "stem_norm", name))
    ]


def statistics(layers: list[DualLayer]) -> Figure:
    """How far apart the two branches' statistics are, layer by layer: median channel, and the middle half of them."""
    numbers = np.arange(1, len(layers) + 1)
    with style():
        figure, (shift, ratio) = plt.subplots(2, 1, figsize=(6.2, 5.4), sharex=True)
        for panel, values, colour in [
            (shift, [np.abs(layer.shift) for layer in layers], PALETTE[0]),
            (ratio, [layer.ratio for layer in layers], PALETTE[1]),
        ]:
            low, middle, high = np.array([np.quantile(value, (0.25, 0.5, 0.75)) for value in values]).T
            panel.vlines(numbers, low, high, color=colour, lw=2.5, alpha=0.55)
            for kind, marker, label in [(False, "o", "in the main path"), (True, "s", "on a shortcut")]:
                chosen = np.array([layer.shortcut is kind for layer in layers])
                face = "white" if kind else colour
                panel.plot(
                    numbers[chosen], middle[chosen], marker, color=colour, mfc=face, mew=1.8, ms=7.5, label=label
                )
        shift.set(title="distance of the means, in standard deviations of main", ylim=(0, None))
        ratio.axhline(1, color="black", lw=1.2, ls="--")
        ratio.annotate("equal", (numbers[-1] + 0.4, 1), (0, 3), textcoords="offset points", fontsize=9)
        ratio.set(title="standard deviation of aux / of main", xlabel="batch norm, from the image to the logits")
        ratio.set_xticks(numbers)
        ratio.set_xlim(0.3, len(layers) + 1.7)
        ratio.tick_params(axis="x", labelsize=8)
        shift.legend(loc="upper right", title="median channel (bar: middle half)")
    return figure


def summary(layers: list[DualLayer]) -> str:
    """What the figure shows, in one sentence of Markdown with its numbers."""
    shifts = [float(np.median(np.abs(layer.shift))) for layer in layers]
    wider = sum(np.median(layer.ratio) > 1 for layer in layers)
    top = int(np.argmax(shifts))
    return (
        f"In this network the median channel's two means are {shifts[0]:.3f} standard deviations apart at the stem, "
        f"and {shifts[top]:.2f} at batch norm {top + 1} (`{layers[top].name}`), where they are furthest apart. In "
        f"{wider} of its {len(layers)} batch norms the auxiliary branch has the wider median channel."
    )
