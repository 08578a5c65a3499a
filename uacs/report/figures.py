"""The pictures of a run, as SVG text that stands in the page itself."""

import io
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uacs.cascade.thresholds import same_and_opposite

COLOURS = {"small": "#4C78A8", "large": "#F58518", "average": "#54A24B", "verify": "#B279A2"}
RIGHT, WRONG = "#4C78A8", "#E45756"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "uacs",  # the same figure gives the same bytes
    "svg.fonttype": "none",
}


def stages(samples: dict[str, int], seconds: dict[str, float]) -> str:
    """Two bars: which stage settled how many samples, and where the model seconds went."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 1.9), layout="constrained")
        top, bottom = figure.subplots(2, 1)
        _bar(top, "samples", samples, "{:,.0f}")
        _bar(bottom, "model seconds", seconds, "{:,.2f} s")
        handles = [matplotlib.patches.Patch(color=COLOURS[name], label=name) for name in samples]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(samples), frameon=False)
        return svg(figure)


def uncertainties(panels: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, float, str]]) -> str:
    """Figure 4: a histogram of u where the model's polarity is right and wrong, with Gaussian fits.

    A panel is (u, prediction, label, tau, what u is), arrays (N,) over the samples that the model answered.
    """
    with matplotlib.rc_context(STYLE):
        return svg(histograms(panels))


def histograms(panels: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, float, str]]) -> Figure:
    """The same as a figure."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 2.9), layout="constrained")
        for axes, (title, panel) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
            _histograms(axes, title, *panel)
        return figure


def _bar(axes: Axes, title: str, values: Mapping[str, float], form: str) -> None:
    total, left = sum(values.values()) or 1.0, 0.0
    for name, value in values.items():
        axes.barh([0], [value], left=left, color=COLOURS[name], height=0.7)
        if value / total > 0.09:
            text = form.format(value)
            axes.text(left + value / 2, 0, text, ha="center", va="center", color="white", fontsize=9)
        left += value
    axes.set(xlim=(0, total), yticks=[0], yticklabels=[title], xticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)


def _histograms(
    axes: Axes, title: str, u: np.ndarray, prediction: np.ndarray, label: np.ndarray, tau: float, unit: str
) -> None:
    same, opposite = same_and_opposite(prediction, label)
    edges = np.histogram_bin_edges(u, bins=24)
    for mask, name, colour in ((same, "right", RIGHT), (opposite, "wrong", WRONG)):
        values = u[mask]
        if not len(values):
            continue
        label_ = f"{name}: {len(values)}, mean {values.mean():.2f}"
        axes.hist(values, edges.tolist(), density=True, color=colour, alpha=0.4, label=label_)
        if values.std() > 0:
            grid = np.linspace(edges[0], edges[-1], 200)
            axes.plot(grid, _gaussian(grid, values.mean(), values.std()), color=colour, linewidth=1.5)
    axes.axvline(tau, color="#333333", linewidth=1, linestyle="--", label=f"threshold {tau:.2f}")
    axes.set(title=title, xlabel=unit, ylabel="density")
    axes.legend(frameon=False, fontsize=8)


def _gaussian(x: np.ndarray, mean: float, sd: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))


def svg(figure: Figure) -> str:
    """A figure as an element that stands in a page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]
