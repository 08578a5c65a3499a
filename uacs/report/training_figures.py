"""The pictures of an adapter's training, as SVG text like a run's own (`figures.py`).

Everything is by step; a dotted line or a star is the step whose adapter was kept.
"""

from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from uacs.report.figures import STYLE, svg
from uacs.report.search_figures import CHOSEN, TUNED, WIDTH

ROUND = (1, 2, 5, 10)  # what ticks are multiples of, times a power of ten
FEW, MANY = 5, 400  # steps: fewer have no running mean, more are a line without points
STAR: dict[str, Any] = dict(markersize=14, markeredgecolor="white", zorder=5, clip_on=False, linestyle="")


def learning(step: np.ndarray, loss: np.ndarray, rate: np.ndarray, kept: int) -> str:
    """Loss in nats a token (S,) with its running mean, over a thin panel of the learning rate (S,)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _noisy(top, step, loss)
        top.set_ylabel("loss (nats a token)")
        bottom.plot(step, rate, color="#666666", linewidth=1.3, marker="o" if len(step) < FEW else None, markersize=4)
        bottom.set_ylim(0, 1.15 * _greatest(rate))
        bottom.yaxis.set_major_locator(MaxNLocator(2, steps=ROUND))
        bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        bottom.set(xlabel="step", ylabel="learning rate")
        figure.align_ylabels([top, bottom])
        _by_step((top, bottom), step, kept)
        _legend(figure, top)
        return svg(figure)


def validation(
    step: np.ndarray, mae: np.ndarray, acc2: np.ndarray, unanswered: np.ndarray, asked: int, kept: int, last: int
) -> str:
    """MAE, Acc2 as a fraction, and how many of the `asked` had no answer (V,), at the steps (V,) of `last`.

    Where all were answered always there is no panel that says so.
    """
    panels = [("MAE (lower is better)", mae), ("Acc2 (%)", 100 * acc2)]
    if unanswered.any():
        panels.append((f"unanswered, of {asked:,}", unanswered))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        drawn = figure.subplots(1, len(panels))
        for axes, (name, values) in zip(drawn, panels, strict=True):
            axes.plot(step, values, "o-", color=TUNED, linewidth=1.4, markersize=4, clip_on=False)
            axes.plot(step[step == kept], values[step == kept], "*", color=CHOSEN, **STAR, label=f"kept: step {kept:,}")
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND, integer=values is unanswered, min_n_ticks=1))
            axes.margins(y=0.15)
            axes.set(xlabel="step", ylabel=name)
        if unanswered.any():
            drawn[-1].set_ylim(0, 1.15 * _greatest(unanswered))
        _by_step(drawn, np.array([1, last]), ticks=4)
        _legend(figure, drawn[0])
        return svg(figure)


def throughput(step: np.ndarray, speed: np.ndarray, kept: int) -> str:
    """Positions a second (S,) by step, with their running mean."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.2), layout="constrained")
        axes = figure.subplots()
        _noisy(axes, step, speed)
        axes.set_ylim(0, 1.1 * _greatest(speed))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.set(xlabel="step", ylabel="positions a second")
        _by_step([axes], step, kept)
        _legend(figure, axes)
        return svg(figure)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The means of `width` values that follow each other, (N - width + 1,) of (N,), of the ones that are numbers.

    >>> running_mean(np.array([1.0, 2.0, 6.0, np.nan, 8.0]), 3).tolist()
    [3.0, 4.0, 7.0]
    """
    known = np.isfinite(values)
    sums, counts = (np.append(0, np.cumsum(of)) for of in (np.where(known, values, 0.0), known))
    total, many = (of[width:] - of[:-width] for of in (sums, counts))
    return np.divide(total, many, out=np.full(len(total), np.nan), where=many > 0)


def short(value: float) -> str:
    """A learning rate, or another number of any size, in few signs.

    >>> short(2e-5), short(0.002), short(0), short(1.0), short(0.00018497166)
    ('2e-5', '0.002', '0', '1', '0.000185')
    """
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def _noisy(axes: Axes, step: np.ndarray, values: np.ndarray) -> None:
    """What jumps from step to step: faint, under its running mean."""
    reach, few = max(1, len(step) // 20), len(step) < FEW
    look: dict[str, Any] = (
        dict(color=TUNED, markersize=5) if few else dict(color="#9CC3E2", markersize=3.5, markeredgewidth=0)
    )
    axes.plot(step, values, linewidth=0.7, marker="o" if len(step) <= MANY else None, label="a step", **look)
    if not few:
        width = 2 * reach + 1
        axes.plot(
            step[reach:-reach], running_mean(values, width), color=TUNED, linewidth=2, label=f"mean of {width} steps"
        )
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))


def _by_step(panels: Iterable[Axes], step: np.ndarray, kept: int | None = None, ticks: int = 6) -> None:
    """The axis of steps, whole numbers from the first to the last, and the kept one's line."""
    room = max(0.5, 0.02 * (step.max() - step.min()))
    for axes in panels:
        axes.set_xlim(step.min() - room, step.max() + room)
        axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=ROUND, integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        if kept is not None:
            axes.axvline(kept, color=CHOSEN, linewidth=1.3, linestyle=":", label=f"kept: step {kept:,}")


def _greatest(values: np.ndarray) -> float:
    """The greatest number among them, for an axis that begins at 0; 1 where it would have no length."""
    return float(np.max(values, initial=0.0, where=np.isfinite(values))) or 1.0


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
