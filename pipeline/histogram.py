"""The histogram of a run's losses, as SVG that takes its ink from the page around it."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

BINS = 30
# Filled and outlined, so that both are seen where they overlap; the colours of Okabe & Ito are told
# apart with any colour vision, on white and on black.
LOOKS: dict[str, dict[str, Any]] = {
    "delivered": {"histtype": "stepfilled", "color": "#56b4e9", "alpha": 0.7},
    "float": {"histtype": "step", "color": "#d55e00", "linewidth": 1.6},
}
# Stands for the page's text colour until the SVG is written; no colour of the plot itself.
INK = "#010203"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "texsynth",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}
# Matplotlib would name itself, the day and a scheme on the network.
METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def losses_svg(losses: dict[str, NDArray[np.float64]], threshold: float | None) -> str:
    """Draw the losses of each kind over one logarithmic axis.

    Args:
        losses: Losses by kind, `delivered` and `float`; those that are not positive and finite are
            left out.
        threshold: Drawn as a line if there is one.

    Returns:
        An `<svg>` element, or an empty text where there is nothing to draw.
    """
    drawn = {kind: values[np.isfinite(values) & (values > 0)] for kind, values in losses.items()}
    everything = np.concatenate([np.empty(0), *drawn.values()])
    if not everything.size:
        return ""
    bounds = np.append(everything, [] if threshold is None else [threshold])
    edges = np.geomspace(bounds.min() / 1.1, bounds.max() * 1.1, BINS + 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        axes = figure.add_subplot(xscale="log", xlabel="reference loss", ylabel="textures")
        for kind, values in drawn.items():
            axes.hist(values, edges.tolist(), label=kind, **LOOKS[kind])
        if threshold is not None:
            axes.axvline(threshold, color=INK, linestyle="--", label=f"threshold {threshold:g}")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={**METADATA})
    svg = file.getvalue().replace(INK, "currentColor")
    return svg[svg.index("<svg") :]
