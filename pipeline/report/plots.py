"""Histograms and loss curves of a run, as SVG that takes its ink from the page around it.

Drawn once, when the report is written: a plot takes 10 to 60 KB, where a plotting library for
the browser would add megabytes to every report and its start to every opening.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Literal

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
DECADES = 50.0
"""Above this ratio of the largest to the smallest value an axis is logarithmic."""
WORST_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00")
"""Of Okabe & Ito too; as many textures stand out among the loss curves."""
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
    with _figure(7, 2.6) as (figure, file):
        axes = figure.add_subplot(xscale="log", xlabel="reference loss", ylabel="textures")
        for kind, values in drawn.items():
            axes.hist(values, edges.tolist(), label=kind, **LOOKS[kind])
        if threshold is not None:
            axes.axvline(threshold, color=INK, linestyle="--", label=f"threshold {threshold:g}")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    return _svg(file)


def measure_svg(values: NDArray[np.float64], threshold: float | None) -> str:
    """Draw the histogram of a measure, small; over a logarithmic axis if it spans decades.

    Args:
        values: Those that are not finite are left out.
        threshold: Drawn as a line if there is one.

    Returns:
        An `<svg>` element, or an empty text where there is nothing to draw.
    """
    drawn = values[np.isfinite(values)]
    if not drawn.size:
        return ""
    bounds = np.append(drawn, [] if threshold is None else [threshold])
    logarithmic = bounds.min() > 0 and bounds.max() > DECADES * bounds.min()
    spread = np.geomspace if logarithmic else np.linspace
    # Equal values, a loss of 0 among them, still get bins of some width.
    margin = 0.0 if np.ptp(bounds) else 0.5 * (abs(bounds.max()) or 1.0)
    edges = spread(bounds.min() - margin, bounds.max() + margin, BINS + 1)
    # A layout that fits itself to the labels takes half the time of all small plots.
    with _figure(3.1, 1.7, layout=None) as (figure, file):
        axes = figure.add_axes((0.12, 0.15, 0.86, 0.8), xscale="log" if logarithmic else "linear")
        axes.hist(drawn, edges.tolist(), **LOOKS["delivered"])
        if threshold is not None:
            axes.axvline(threshold, color=INK, linestyle="--")
        axes.minorticks_off()
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        if not logarithmic:
            axes.xaxis.set_major_locator(MaxNLocator(5))
    return _svg(file)


def curves_svg(curves: Sequence[Sequence[Mapping[str, float]]]) -> str:
    """Draw loss curves over evaluations, the first few of them in colour.

    Args:
        curves: As in `loss_curve`, worst texture first. A curve breaks where its level changes:
            losses of different sides are not comparable.

    Returns:
        An `<svg>` element, or an empty text where there is nothing to draw.
    """
    curves = [curve for curve in curves if any(point["loss"] > 0 for point in curve)]
    if not curves:
        return ""
    with _figure(7, 3) as (figure, file):
        axes = figure.add_subplot(yscale="log", xlabel="evaluations", ylabel="objective")
        # The worst are drawn last, over the others.
        for number, curve in reversed(list(enumerate(curves))):
            worst = number < len(WORST_COLOURS)
            look: dict[str, Any] = {
                "color": WORST_COLOURS[number] if worst else INK,
                "linewidth": 1.8,
            }
            look |= {} if worst else {"alpha": 0.18, "linewidth": 0.8}
            for part, (evaluations, losses) in enumerate(_levels(curve)):
                label = f"worst {number + 1}" if worst and not part else None
                axes.plot(evaluations, losses, label=label, **look)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], frameon=False, loc="outside right upper")
    return _svg(file)


def _levels(curve: Sequence[Mapping[str, float]]) -> Iterator[tuple[list[float], list[float]]]:
    """Evaluations and losses of each level of a curve."""
    for _, points in groupby(curve, key=lambda point: point["side"]):
        level = [(point["evaluations"], point["loss"]) for point in points]
        yield [evaluations for evaluations, _ in level], [loss for _, loss in level]


@contextmanager
def _figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[tuple[Figure, io.StringIO]]:
    """A figure of so many inches to draw on, written to the file at the end."""
    with mpl.rc_context(STYLE):
        figure, file = Figure(figsize=(width, height), layout=layout), io.StringIO()
        yield figure, file
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file, format="svg", transparent=True, metadata={**METADATA})


def _svg(file: io.StringIO) -> str:
    svg = file.getvalue().replace(INK, "currentColor")
    return svg[svg.index("<svg") :]
