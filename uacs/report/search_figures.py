"""The pictures of a search, as SVG text like a run's own (`figures.py`).

Run time is relative to the large model alone, and drawn in percent of it; so are metrics that are fractions.
Marks differ in shape as well as in colour: a square is the small model, a triangle the large one, a star what
was chosen, a cross a rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from uacs.cascade.envelope import Line
from uacs.cascade.points import Point
from uacs.report.figures import COLOURS, STYLE, svg
from uacs.report.text import PERCENT

Status = Literal["finished", "stopped", "failed"]

WIDTH = 7.4  # inches, that the page stretches to its own width
CHOSEN, TUNED, EXACT, RULE, QUIET = "#D55E00", "#0072B2", "#222222", "#7A3E9D", "#9A9A9A"
STATUS = {"finished": TUNED, "stopped": QUIET, "failed": COLOURS["large"]}
TIME = "run time (% of the large model's)"
SHADES = LinearSegmentedColormap.from_list("shades", ["#FFFFFF", "#C6DBEF", "#6BAED6"])  # black lines show on all
REACH = (5, 12, 22, 36, 52)  # points between a mark and its name, the nearer the better
AROUND = [(1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8)]


@dataclass(frozen=True)
class Cloud:
    """One metric against run time on one split, behind the marks: what a coin, an oracle and a search come to.

    trials are the search's points and tuned its front, None where there was no search; exact is the front of all
    thresholds that there are, None where they were not chosen on the split.
    """

    random: Line
    oracle: Line
    trials: Line | None = None
    tuned: Line | None = None
    exact: Line | None = None


@dataclass(frozen=True)
class Curve:
    """A trial's quality and run time (E,) after each of the epochs (E,) that it was given before its end."""

    trial: int
    epochs: np.ndarray
    quality: np.ndarray
    time: np.ndarray
    status: Status


def title(metric: str) -> str:
    """A metric's name as the field writes it."""
    return metric.upper() if metric == "mae" else metric.capitalize()


def tradeoff(
    clouds: Mapping[str, Cloud], small: Point, large: Point, chosen: Point | None, rules: Mapping[str, Point]
) -> str:
    """A panel for each metric against run time: how near the search came to the best there is, and the rules to it.

    rules are told by short names.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(clouds)))
        for axes, (metric, cloud) in zip(panels, clouds.items(), strict=True):
            _cloud(axes, metric, cloud)
            _mark(axes, metric, small, "s", COLOURS["small"], "small model alone", 6)
            _mark(axes, metric, large, "^", COLOURS["large"], "large model alone", 7)
            for number, rule in enumerate(rules.values()):
                _mark(axes, metric, rule, "x", RULE, None if number else "rules", 5)
            if chosen:
                _mark(axes, metric, chosen, "*", CHOSEN, "chosen", 12)
            axes.set(xlabel=TIME, ylabel=_with_unit(metric))
            axes.margins(0.06)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8.5)
        figure.draw_without_rendering()  # settles where the axes are, which names must keep within
        for axes, (metric, cloud) in zip(panels, clouds.items(), strict=True):
            marks = {name: _place(metric, point) for name, point in rules.items()}
            others = [_place(metric, point) for point in (small, large, chosen) if point]
            _name(axes, marks, np.array(others), _course(metric, cloud))
        return svg(figure)


def lambda_sweep(
    lambdas: np.ndarray, acc2: np.ndarray, mae: np.ndarray, time: np.ndarray, paper: float | None = None
) -> str:
    """Figure 3: Acc2 and MAE (L,) by λ (L,), before bars of the run time (L,); `paper` is the paper's own λ."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        for axes, metric, quality in zip(figure.subplots(1, 2), ("acc2", "mae"), (acc2, mae), strict=True):
            behind = axes.twinx()
            width = 0.75 * np.diff(lambdas).min() if len(lambdas) > 1 else 0.1
            behind.bar(lambdas, 100 * time, width, color="#D9D9D9")
            behind.spines["right"].set_visible(True)
            behind.tick_params(colors="#777777")
            behind.set_ylim(0, max(100.0, 105 * float(np.nanmax(time))))
            behind.set_ylabel("run time (%)", color="#777777")
            axes.plot(lambdas, _shown(metric, quality), "o-", color=TUNED, markersize=4)
            axes.set(xlabel="λ", ylabel=_with_unit(metric))
            axes.set_zorder(behind.get_zorder() + 1)
            axes.patch.set_visible(False)
            if paper is not None:
                axes.axvline(paper, color=CHOSEN, linewidth=1.2, linestyle=":")
                axes.annotate(
                    f"paper: λ = {paper:g}",
                    (paper, 1.01),
                    xycoords=axes.get_xaxis_transform(),
                    ha="left" if paper < np.mean(lambdas) else "right",
                    va="bottom",
                    fontsize=8.5,
                    color=CHOSEN,
                )
        return svg(figure)


def heat(
    lambdas: np.ndarray,
    betas: np.ndarray,
    quality: np.ndarray,
    time: np.ndarray,
    chosen: tuple[float, float] | None,
    metric: str,
) -> str:
    """Quality (L, B) over λ (L,) and β (B,), the darker the better, under lines of equal run time (L, B)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        shades = SHADES.reversed() if metric == "mae" else SHADES
        mesh = axes.pcolormesh(lambdas, betas, _shown(metric, quality).T, cmap=shades, shading="nearest")
        figure.colorbar(mesh, label=_with_unit(metric), pad=0.02)
        if len(lambdas) > 1 and len(betas) > 1 and np.nanmax(time) > np.nanmin(time):
            lines = axes.contour(lambdas, betas, 100 * time.T, levels=6, colors=EXACT, linewidths=0.9)
            axes.clabel(lines, fmt="%g %%", fontsize=8.5)
        if chosen:
            axes.plot(*chosen, "*", color=CHOSEN, markersize=15, markeredgecolor="white", label="chosen", zorder=5)
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, frameon=False, fontsize=8.5)
        axes.set(xlabel="λ", ylabel="β (nats)")
        axes.set_title(f"lines: {TIME}", fontsize=8.5, loc="right")
        return svg(figure)


def halving(curves: Sequence[Curve], chosen: int | None, metric: str) -> str:
    """What each trial's cascade came to epoch by epoch, in quality and in run time, and where ASHA stopped it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, label in zip(panels, (_with_unit(metric), TIME), strict=True):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set(xlabel="epoch", ylabel=label)
        for curve in sorted(curves, key=lambda c: (c.trial == chosen, c.status == "finished")):
            _follow(panels[0], curve, _shown(metric, curve.quality), chosen)
            _follow(panels[1], curve, 100 * curve.time, chosen)
        _legend(figure, panels[0])
        return svg(figure)


def rates(
    settings: Mapping[str, np.ndarray],
    quality: np.ndarray,
    time: np.ndarray,
    status: Sequence[Status],
    chosen: int | None,
    metric: str,
) -> str:
    """Quality and run time (T,) of T trials by each of their learning rates (T,); `chosen` is a position.

    A trial without a quality stands on the axis.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        panels = figure.subplots(2, len(settings), sharex="col", sharey="row", squeeze=False)
        for row, (values, label) in zip(
            panels, ((_shown(metric, quality), _with_unit(metric)), (100 * time, "run time (%)")), strict=True
        ):
            row[0].set_ylabel(label)
            for axes, rate in zip(row, settings.values(), strict=True):
                _scatter(axes, rate, values, np.array(status, object), chosen)
        for axes, name in zip(panels[1], settings, strict=True):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=4))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(name, parse_math=False)
        _legend(figure, panels[0, 0])
        return svg(figure)


def _follow(axes: Axes, curve: Curve, values: np.ndarray, chosen: int | None) -> None:
    """One trial's line; a stopped one ends in a dot, a failed one in a cross."""
    best = curve.trial == chosen
    axes.plot(
        curve.epochs,
        values,
        color=CHOSEN if best else STATUS[curve.status],
        linewidth=2.4 if best else 1.1,
        alpha=1.0 if best or curve.status == "failed" else 0.7,
        marker={"stopped": "o", "failed": "X"}.get(curve.status),
        markevery=[-1] if len(curve.epochs) else [],
        markersize=4 if curve.status == "stopped" else 7,
        label=f"chosen: trial {chosen}" if best else curve.status,
    )


def _scatter(axes: Axes, rate: np.ndarray, values: np.ndarray, status: np.ndarray, chosen: int | None) -> None:
    """A dot a trial; one without a value as a cross on the axis."""
    for state, colour in STATUS.items():
        here, none = status == state, np.isnan(values)
        if (here & ~none).any():
            axes.plot(
                rate[here & ~none], values[here & ~none], "o", color=colour, markersize=5, alpha=0.75, label=state
            )
        if (here & none).any():
            foot, zero = axes.get_xaxis_transform(), np.zeros((here & none).sum())
            axes.plot(rate[here & none], zero, "X", transform=foot, clip_on=False, color=colour, label=state)
    if chosen is not None:
        star = rate[[chosen]], values[[chosen]]
        axes.plot(*star, "*", color=CHOSEN, markersize=13, markeredgecolor="white", label="chosen", zorder=5)


def _legend(figure: Figure, axes: Axes) -> None:
    """What is named in one panel, each name once."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    if named:
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=4, frameon=False, fontsize=8.5)


def _shown(metric: str, quality) -> np.ndarray:
    return np.asarray(quality, float) * (100 if metric in PERCENT else 1)


def _with_unit(metric: str) -> str:
    if metric == "mae":
        return "MAE (lower is better)"
    return f"{title(metric)} (%)" if metric in PERCENT else title(metric)


def _cloud(axes: Axes, metric: str, cloud: Cloud) -> None:
    def draw(line: Line, form: str, label: str, **look) -> None:
        axes.plot(100 * line.time, _shown(metric, line.quality), form, label=label, **look)

    draw(cloud.random, "-", "random routing", color=QUIET, linewidth=1.8)
    draw(cloud.oracle, "--", "knowing the labels", color="#666666", linewidth=1.2)
    if cloud.trials is not None:
        draw(cloud.trials, "o", "trials", color="#8FB8DE", markersize=2.2, markeredgewidth=0)
    if cloud.exact is not None:
        draw(cloud.exact, "-", "front of all thresholds", color=EXACT, linewidth=1.1)
    if cloud.tuned is not None:
        form = "o-" if cloud.exact is not None else "o"  # on another split the front is none, and its line would jump
        draw(cloud.tuned, form, "Tune's front", color=TUNED, linewidth=1.1, markersize=3.6)


def _mark(axes: Axes, metric: str, point: Point, marker: str, colour: str, label: str | None, size: float) -> None:
    (mark,) = axes.plot(*_place(metric, point), marker, label=label, color=colour, markersize=size, linestyle="")
    mark.set_zorder(6 if marker == "*" else 5)
    if marker != "x":
        mark.set(markeredgecolor="white", markeredgewidth=0.7)


def _place(metric: str, point: Point) -> tuple[float, float]:
    return 100 * point.time, float(_shown(metric, point.metrics[metric]))


def _course(metric: str, cloud: Cloud) -> np.ndarray:
    """Points all along what is drawn, (P, 2): what names should keep off."""
    points = [(100 * line.time, _shown(metric, line.quality)) for line in (cloud.trials, cloud.tuned) if line]
    for line in filter(None, (cloud.random, cloud.oracle, cloud.exact)):
        along = np.linspace(0, len(line.time) - 1, 200)
        at = np.arange(len(line.time))
        points.append((np.interp(along, at, 100 * line.time), np.interp(along, at, _shown(metric, line.quality))))
    return np.concatenate([np.column_stack(pair) for pair in points])


def _name(axes: Axes, marks: Mapping[str, tuple[float, float]], others: np.ndarray, course: np.ndarray) -> None:
    """Write names by their marks (x, y) where there is room: off each other, off marks, over little else."""
    to_pixels = axes.transData.transform
    course = to_pixels(course)
    spots = to_pixels(np.concatenate([np.array(list(marks.values())).reshape(-1, 2), others]))
    taken: list[Bbox] = []
    for name, at in sorted(marks.items(), key=lambda mark: mark[1]):
        text = axes.annotate(
            name,
            at,
            (0, 0),
            textcoords="offset points",
            fontsize=8,
            color=RULE,
            parse_math=False,
            arrowprops=dict(arrowstyle="-", color=RULE, linewidth=0.5, alpha=0.6, shrinkA=0, shrinkB=2),
            zorder=7,
        )
        text.set_in_layout(False)

        def put(reach: int, way: tuple[float, float], text=text) -> Bbox:
            text.set_position((reach * way[0], reach * way[1]))
            text.set(
                ha={0: "center", 1: "left", -1: "right"}[int(np.sign(way[0]))],
                va={0: "center", 1: "bottom", -1: "top"}[int(np.sign(way[1]))],
            )
            return text.get_window_extent().padded(1)

        def cost(place: tuple[int, tuple[float, float]], put=put) -> float:
            box = put(*place)
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            inside = inside and axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1)
            hidden = 40 * box.count_contains(spots) + box.count_contains(course)
            return 1000 * (not inside) + 1000 * box.count_overlaps(taken) + hidden + 0.3 * place[0]

        taken.append(put(*min(((reach, way) for reach in REACH for way in AROUND), key=cost)))
