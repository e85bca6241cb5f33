"""The look of all figures, and an image in one of their panels. No torch.

Colours are seaborn's colour-blind palette, and nothing is told by colour alone. The background is opaque white, so a
figure reads the same in the book's light and dark themes.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
if hasattr(shell, "kernel") and matplotlib.get_backend().lower() == "agg":
    # clusters and CI set $MPLBACKEND, with which a notebook's figures are drawn and never shown
    shell.run_line_magic("matplotlib", "inline")

PALETTE = sns.color_palette("colorblind")
MARKERS = "osD^vP*Xp<>h"


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures; the reader's own settings are back afterwards."""
    with (
        sns.axes_style("whitegrid"),
        plt.rc_context(
            {
                "figure.dpi": 144,
                "font.size": 10,
                "axes.titlesize": 11,
                "figure.facecolor": "white",
                "savefig.facecolor": "white",
                "legend.frameon": False,
                "axes.titlelocation": "left",
                "figure.constrained_layout.use": True,
            }
        ),
    ):
        yield
        interactive = plt.isinteractive()
    # a notebook's first figure switches it on: put back off, no later figure would show
    matplotlib.interactive(interactive)


def picture(panel: Axes, pixels: np.ndarray, caption: str, wrong: bool = False) -> None:
    """One image (H, W, C), pixels in [0, 1], with a caption; a frame and a cross mark a wrong prediction."""
    panel.imshow(np.clip(pixels, 0, 1), interpolation="none")  # so that an SVG keeps its pixels as they are
    panel.set(xticks=[], yticks=[])
    # a caption may be the name of a reader's own folder, in which dollars make no formula
    panel.set_title(("✗ " if wrong else "") + caption, fontsize=7, loc="center", pad=3, parse_math=False)
    for spine in panel.spines.values():
        spine.set(visible=wrong, color=PALETTE[3], linewidth=2.5)
