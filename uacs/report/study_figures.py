"""The pictures of a study: SVG to hover over for the page, PNG and PDF for papers.

Colours are Okabe and Ito's, which the colour-blind tell apart; lines differ in dashes and marks as well.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uacs.cascade.intervals import Estimate
from uacs.report.figures import STYLE, svg

WIDTH = 7.4  # inches
LOOKS: dict[str, dict] = {
    "cbe": dict(color="#0072B2", marker="o", linestyle="-"),
    "ptd": dict(color="#D55E00", marker="s", linestyle="-"),
    "ev": dict(color="#009E73", marker="^", linestyle="-"),
    "miss": dict(color="#CC79A7", marker="D", linestyle="-"),
    "a coin": dict(color="#777777", marker="", linestyle="--"),
    "an oracle": dict(color="#000000", marker="", linestyle=":"),
    "all": dict(color="#0072B2", marker="o", linestyle="-"),
    "label near 0": dict(color="#D55E00", marker="s", linestyle="--"),
    "elsewhere": dict(color="#009E73", marker="^", linestyle="-."),
}
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#D9D9D9"
REACH = 7  # points about a mark that show its tip


@dataclass(frozen=True)
class Curve:
    """A line y (P,) over x (P,), perhaps with the ends of its intervals."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @classmethod
    def of(cls, name: str, x: np.ndarray, points: Sequence[Estimate]) -> "Curve":
        """Of estimates."""
        return cls(name, x, *(np.array([getattr(p, end) for p in points]) for end in ("value", "low", "high")))


@dataclass(frozen=True)
class Sweep:
    """Figure 3: both metrics by λ over what it costs (L,), with the λ that is in use."""

    acc2: Curve
    mae: Curve
    cost: np.ndarray
    cost_name: str
    used: float


@dataclass(frozen=True)
class Bars:
    """A reliability diagram: expected and observed (B,), samples (B,), and the ECE."""

    expected: np.ndarray
    observed: np.ndarray
    count: np.ndarray
    ece: float


@dataclass
class Picture:
    """A figure, and what hovering over its marks says: (axes, x, y, text)."""

    figure: Figure
    tips: list[tuple[Axes, float, float, str]] = field(default_factory=list)

    def svg(self) -> str:
        """With a spot over each mark that tells its figure."""
        with matplotlib.rc_context(STYLE):
            drawn = svg(self.figure)
        height = self.figure.get_figheight() * 72
        scale = 72 / self.figure.dpi
        spots = []
        for axes, x, y, text in self.tips:
            if np.isfinite(x) and np.isfinite(y):
                left, up = axes.transData.transform((x, y)) * scale
                said = escape(text)
                spots.append(
                    f'<circle class="spot" cx="{left:.1f}" cy="{height - up:.1f}" r="{REACH}" fill="transparent" '
                    f'data-tip="{said}"><title>{said}</title></circle>'
                )
        head, end, _ = drawn.rpartition("</svg>")
        return head + "".join(spots) + end

    def file(self, kind: str) -> bytes:
        """As a png or pdf."""
        content = io.BytesIO()
        nothing = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(content, format=kind, dpi=200, metadata=nothing[kind])
        return content.getvalue()


def lambda_sweep(sweep: Sweep) -> Picture:
    """Acc2 and MAE by λ with 95 % intervals, before bars of what it costs."""
    with matplotlib.rc_context(STYLE):
        picture = _begin(2.9)
        panels = picture.figure.subplots(1, 2)
        parts = ((sweep.acc2, "Acc2 (%)", 100), (sweep.mae, "MAE (score's units)", 1))
        for axes, (curve, label, scale) in zip(panels, parts, strict=True):
            behind = axes.twinx()
            behind.bar(curve.x, 100 * sweep.cost, 0.07, color=GREY)
            behind.spines["right"].set_visible(True)
            behind.set(ylim=(0, max(100.0, 105 * float(np.nanmax(sweep.cost)))))
            behind.set_ylabel(sweep.cost_name if axes is panels[-1] else "", color="#666666")
            behind.tick_params(colors="#666666")
            _line(picture, axes, curve, scale, LOOKS["cbe"], "λ = {x:g}")
            axes.axvline(sweep.used, color=ORANGE, linestyle=":", linewidth=1.3)
            at = axes.get_xaxis_transform()
            axes.text(sweep.used, 1.01, f"used: {sweep.used:g}", transform=at, color=ORANGE, fontsize=8.5, ha="center")
            axes.set(xlabel="λ (Eq. 19)", ylabel=label)
            axes.set_zorder(behind.get_zorder() + 1)
            axes.patch.set_visible(False)
        return _done(picture)


def budget(curves: Mapping[str, Sequence[Curve]]) -> Picture:
    """Acc2 and MAE of the cascade by the share asked; the band is the entropy's 95 % interval."""
    labels = {"acc2": ("Acc2 (%)", 100), "mae": ("MAE (score's units)", 1)}
    with matplotlib.rc_context(STYLE):
        picture = _begin(3.6)
        panels = picture.figure.subplots(1, len(curves))
        for axes, (metric, lines) in zip(panels, curves.items(), strict=True):
            label, scale = labels[metric]
            for curve in lines:
                _line(picture, axes, curve, scale, LOOKS[curve.name], "{x:.0%} asked", across=100)
            axes.set(xlabel="asked of the large model (%)", ylabel=label)
        _legend(picture, panels[0])
        return _done(picture)


def risk(curves: Sequence[Curve]) -> Picture:
    """Wrong polarities among the surest, by how many are kept."""
    with matplotlib.rc_context(STYLE):
        picture = _begin(3.0, 5.0)
        axes = picture.figure.subplots()
        for curve in curves:
            _line(picture, axes, curve, 100, LOOKS[curve.name] | {"marker": ""}, "{x:.0%} kept", across=100)
        axes.set(xlabel="kept by the small model, the surest first (%)", ylabel="wrong polarity (%)", ylim=(0, None))
        axes.legend(frameon=False, fontsize=8.5)
        return _done(picture)


def error_by_doubt(curves: Sequence[Curve]) -> Picture:
    """The error of the score by the rank of the entropy."""
    with matplotlib.rc_context(STYLE):
        picture = _begin(3.0, 5.0)
        axes = picture.figure.subplots()
        for curve in curves:
            _line(picture, axes, curve, 1, LOOKS[curve.name], "rank {x:.0%}", across=100)
        axes.set(
            xlabel="rank of the entropy, the surest first (%)",
            ylabel="mean abs(y - label) (score's units)",
            ylim=(0, None),
        )
        axes.legend(frameon=False, fontsize=8.5)
        return _done(picture)


def reliability(diagrams: Mapping[str, Bars]) -> Picture:
    """Observed mistakes by expected ones; the area of a mark is how many samples it stands for."""
    titles = {"error": "polarity: estimator `error`", "classifier": "class: 1 - likeliest"}
    with matplotlib.rc_context(STYLE):
        picture = _begin(3.2, 3.5 * len(diagrams))
        for axes, (name, bars) in zip(
            np.atleast_1d(picture.figure.subplots(1, len(diagrams))), diagrams.items(), strict=True
        ):
            there = bars.count > 0
            most = 1.05 * float(max(np.nanmax(bars.expected), np.nanmax(bars.observed), 0.1))
            axes.plot([0, most], [0, most], color="#777777", linewidth=1, linestyle="--")
            area = 20 + 200 * bars.count[there] / bars.count.max()
            axes.scatter(bars.expected[there], bars.observed[there], area, color=BLUE, alpha=0.75, linewidth=0)
            for expected, observed, count in zip(bars.expected, bars.observed, bars.count, strict=True):
                told = f"expected {expected:.1%}, observed {observed:.1%}, {count} answers"
                picture.tips.append((axes, expected, observed, told))
            axes.set(
                title=f"{titles[name]}\nECE {100 * bars.ece:.1f} points", xlabel="expected mistakes", ylabel="observed"
            )
            axes.title.set_fontsize(9.5)
            axes.set(xlim=(0, most), ylim=(0, most))
        return _done(picture)


def gains(shares: Sequence[float], acc2: Sequence[Estimate], mae: Sequence[Estimate]) -> Picture:
    """What entropy has over a coin at each share, with 95 % intervals."""
    with matplotlib.rc_context(STYLE):
        picture = _begin(2.8)
        parts = (("Acc2 above a coin's (points)", acc2, 100), ("MAE above a coin's", mae, 1))
        for axes, (label, points, scale) in zip(picture.figure.subplots(1, 2), parts, strict=True):
            x, y = 100 * np.array(shares), scale * np.array([p.value for p in points])
            half = scale * np.array([(p.high - p.low) / 2 for p in points])
            axes.axhline(0, color="#777777", linewidth=1, linestyle="--")
            axes.errorbar(x, y, half, color=BLUE, marker="o", markersize=4, linewidth=1.3, capsize=3)
            for at, value, width in zip(x, y, half, strict=True):
                picture.tips.append((axes, at, value, f"{at:.0f} % asked: {value:+.3g} ± {width:.2g}"))
            axes.set(xlabel="asked of the large model (%)", ylabel=label)
        return _done(picture)


def _begin(height: float, width: float = WIDTH) -> Picture:
    return Picture(Figure(figsize=(min(width, WIDTH), height), layout="constrained", dpi=72))


def _done(picture: Picture) -> Picture:
    picture.figure.draw_without_rendering()  # settles where the axes are, which the tips must know
    picture.figure.set_layout_engine("none")
    return picture


def _line(picture: Picture, axes: Axes, curve: Curve, scale: float, look: dict, where: str, across: float = 1) -> None:
    x, y = across * curve.x, scale * curve.y
    axes.plot(x, y, label=curve.name, linewidth=1.5, markersize=3.5, **look)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(x, scale * curve.low, scale * curve.high, color=look["color"], alpha=0.15, linewidth=0)
    for i in range(len(x)):
        told = f"{curve.name}, {where.format(x=curve.x[i])}: {y[i]:.4g}"
        if curve.low is not None and curve.high is not None:
            told += f" ± {scale * (curve.high[i] - curve.low[i]) / 2:.2g}"
        picture.tips.append((axes, x[i], y[i], told))


def _legend(picture: Picture, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    picture.figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=8.5)
