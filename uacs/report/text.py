"""A run's numbers as text: what a command prints at its end."""

from uacs.cascade.paired import Comparison
from uacs.records import STAGES

SYSTEMS = {"small": "small model", "large": "large model", "uacs": "U-ACS"}
PERCENT = ("acc2", "f1", "acc7", "acc5", "acc3", "acc2_has0", "f1_has0")
SHOWN = ("acc2", "f1", "acc7", "acc5", "acc3", "mae", "corr")


def metrics_text(summary: dict) -> str:
    """What a command prints at the end: stages in a line, then a row for each system."""
    n = max(summary["n"], 1)
    shares = "   ".join(f"{name} {summary['stages'][name] / n:.0%}" for name in STAGES)
    names = metric_names(summary)
    head = "".join(f"{name:>8}" for name in names)
    lines = [shares, "", f"{'':12}{'n':>7}{head}{'large calls':>13}{'model seconds':>15}"]
    calls = {"small": 0, "large": summary["n"], "uacs": asked(summary) + summary["second_looks"]["asked"]}
    for system, title in SYSTEMS.items():
        scores = summary["metrics"][system]
        row = "".join(f"{number(name, scores.get(name)):>8}" for name in names)
        cost = summary["cost"][system]
        seconds = f"{cost:15.2f}" if cost is not None else f"{'-':>15}"
        lines.append(f"{title:12}{scores['n']:7}{row}{calls[system]:13}{seconds}")
    if summary["metrics"]["large"]["n"] < summary["metrics"]["small"]["n"]:
        lines.append(
            "the large model's row: only samples that it was asked about, the doubtful ones (see --all-stages)"
        )
    for name, comparison in summary.get("compared", {}).items():
        acc2 = comparison["acc2"]
        rival = "random routing at the same share" if name == "random" else f"the {name} model"
        lines.append(
            f"{'acc2 against ' + rival:52}{100 * acc2['difference']:+6.1f}  "
            f"[{100 * acc2['low']:+.1f}, {100 * acc2['high']:+.1f}]"
        )
    if "missing" not in summary and (summary["errors"] or summary["degraded"]):
        lines.append(f"{summary['errors']} errors, {summary['degraded']} degraded: see the report")
    looks = summary["second_looks"]
    if "missing" not in summary and looks["asked"] < looks["due"]:
        lines.append(
            f"{looks['due'] - looks['asked']} of {looks['due']} second looks had no answer; y_large stands there"
        )
    lines += [f"warning: {text}" for text in summary.get("warnings", [])]
    return "\n".join(lines)


def number(name: str, value: float | None) -> str:
    """A metric as the field prints it: fractions as percent with one decimal, MAE and Corr with three."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if name in PERCENT else f"{value:.3f}"


def metric_names(summary: dict) -> list[str]:
    """The metrics that this dataset has, in the order of the field's tables."""
    known = summary["metrics"]["small"]
    return [name for name in SHOWN if name in known]


def asked(summary: dict) -> int:
    """How many samples went to the large model."""
    return sum(summary["stages"][name] for name in ("large", "average", "verify"))


def comparison_text(comparison: Comparison, first: str, second: str) -> str:
    """A row for each metric of two runs, first minus second, then McNemar's test."""
    lines = [f"{comparison.n} samples that both answered"]
    lines += [f"left out: {count} {why}" for why, count in comparison.left_out.items()]
    lines += [f"first:  {first}", f"second: {second}", ""]
    lines.append(f"{'':10}{'first':>9}{'second':>9}{'difference':>12}   95 % interval, paired bootstrap")
    for name, d in comparison.metrics.items():
        values = f"{number(name, d.first):>9}{number(name, d.second):>9}{_signed(name, d.difference):>12}"
        lines.append(f"{name:10}{values}   [{_signed(name, d.low)}, {_signed(name, d.high)}]")
    m = comparison.mcnemar
    lines += [
        "",
        f"Acc2: {m.only_first} right in the first alone, {m.only_second} in the second alone; McNemar p = {m.p:.3g}",
    ]
    return "\n".join(lines)


def _signed(name: str, value: float) -> str:
    return f"{100 * value:+.1f}" if name in PERCENT else f"{value:+.3f}"


def missing_text(missing: dict[str, int]) -> str:
    """What a replay could not know; empty if it knew all."""
    told = {"large": "had no large answer and keep y_small", "verify": "had no second look and keep y_large"}
    said = [f"{missing[stage]} samples {text}" for stage, text in told.items() if missing[stage]]
    hint = " (`evaluate --all-stages` asks about everything)" if missing["large"] else ""
    return "; ".join(said) + hint
