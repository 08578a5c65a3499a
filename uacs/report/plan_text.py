"""A sizing as text and as rows: what `uacs plan` prints, and writes."""

from collections.abc import Sequence

import pandas as pd

from uacs.cascade.sizing import LARGE, Costs, Day, Pool, Service, Sized

SETUPS = {"fixed": "replicas that stay", "grown": "autoscaled", "alone": "the large model alone"}
NAMES = {"small": "small model", "large": "large model", "verify": "verifier"}


def plan_text(found: Sequence[Sized], clips: Costs, day: Day, service: Service) -> str:
    """The traffic, what a clip costs, and a block of lines for each goal."""
    stages = list(clips.seconds)
    lines = [
        f"{day.clips:,.0f} clips a day, {day.busiest:,.1f} a second at most; {clips.share(LARGE):.1%} of them go on",
        "seconds a clip: " + ", ".join(f"{NAMES[name]} {clips.mean(name):.3g}" for name in stages),
        "",
    ]
    priced = bool(service.prices)
    heads = [name if name != LARGE else "large" for name in stages]
    lines.append(f"{'':24}" + "".join(f"{head:>10}" for head in [*heads, "at work", "p50, s", "p95", "p99"]))
    lines[-1] += f"{'large, h/day':>14}" + (f"{'price/day':>12}" if priced else "")
    for sized in found:
        lines.append(f"95 % within {sized.goal:g} s")
        lines += [f"  {name:22}" + _cells(getattr(sized, key), stages, service) for key, name in SETUPS.items()]
    return "\n".join(lines)


def _cells(pool: Pool | None, stages: Sequence[str], service: Service) -> str:
    if pool is None:
        return "      no number of replicas does"
    counts = [_count(pool, name) for name in stages]
    told = "".join(f"{cell:>10}" for cell in [*counts, f"{pool.busy:.0%}", *(f"{t:.2f}" for t in pool.latency)])
    told += f"{pool.hours[LARGE]:>14,.0f}"
    return told + (f"{pool.price(service.prices):>12,.2f}" if service.prices else "")


def _count(pool: Pool, name: str) -> str:
    if name == LARGE and pool.fewest is not None:
        return f"{pool.fewest}-{pool.replicas[name]}"
    return f"{pool.replicas[name]}" if name in pool.replicas else ""


def plan_table(found: Sequence[Sized], service: Service) -> pd.DataFrame:
    """A row for each goal and setup: replicas and hours a day by stage, seconds, share at work, price of a day."""
    rows = []
    for sized in found:
        for key in SETUPS:
            row: dict[str, object] = {"goal_p95": sized.goal, "setup": key}
            if (pool := getattr(sized, key)) is not None:
                row |= {f"replicas_{name}": count for name, count in pool.replicas.items()}
                row |= {"fewest_large": pool.fewest}
                row |= {f"hours_{name}": hours for name, hours in pool.hours.items()}
                row |= dict(zip(("p50", "p95", "p99"), pool.latency, strict=True)) | {"at_work": pool.busy}
                row |= {"price": pool.price(service.prices)} if service.prices else {}
            rows.append(row)
    return pd.DataFrame(rows)
