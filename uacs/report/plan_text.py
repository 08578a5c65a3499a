"""A sizing as text and as rows: what `uacs plan` prints, and writes."""

from collections.abc import Sequence

import pandas as pd

from uacs.cascade.sizing import LARGE, VERIFY, Costs, Day, Fleet, Plan, Service

SETUPS = {"fixed": "replicas that stay", "grown": "autoscaled", "alone": "the large model alone"}
NAMES = {"small": "small model", "large": "large model", "verify": "verifier"}


def plan_text(plan: Plan, clips: Costs, day: Day, service: Service) -> str:
    """The traffic, what a clip costs, and a block of lines for each goal."""
    stages = list(clips.seconds)
    each = ", ".join(f"{NAMES[name]} {_seconds(name, clips, service)}" for name in stages)
    looks = "" if VERIFY in stages else ", second looks included"
    lines = [
        f"{day.clips:,.0f} clips a day, {day.busiest:,.1f} a second at noon; {clips.share(LARGE):.1%} of them go on",
        f"seconds a clip: {each}{looks}",
        f"with nobody waiting 95 % take {plan.unhurried:.2f} s, by the large model alone {plan.unhurried_alone:.2f} s",
    ]
    if free := [NAMES[name] for name in stages if service.prices and name not in service.prices]:
        lines.append(f"prices are without the {' and the '.join(free)}")
    heads = [*stages, "large h/day", "at work", "p50, s", "p95", "p99", *(["price/day"] if service.prices else [])]
    lines += ["", f"{'replicas':24}" + "".join(f"{head:>12}" for head in heads)]
    for sized in plan.sized:
        lines.append(f"95 % within {sized.goal:g} s")
        lines += [f"  {name:22}" + _cells(getattr(sized, key), stages, service) for key, name in SETUPS.items()]
    return "\n".join(lines)


def _seconds(name: str, clips: Costs, service: Service) -> str:
    batch = service.fixed.get(name)
    return f"{clips.mean(name):.3g}" + (f" (and {batch:g} s a batch)" if batch else "")


def _cells(fleet: Fleet | None, stages: Sequence[str], service: Service) -> str:
    if fleet is None:
        return f"{'none found':>12}"
    cells = [_count(fleet, name) for name in stages]
    at_work = "" if service.fixed.get(LARGE) else f"{fleet.at_work:.0%}"  # who knows how full its batches are at night
    cells += [f"{fleet.hours[LARGE]:,.0f}", at_work, *(f"{seconds:.2f}" for seconds in fleet.latency)]
    cells += [f"{fleet.price(service.prices):,.2f}"] if service.prices else []
    return "".join(f"{cell:>12}" for cell in cells)


def _count(fleet: Fleet, name: str) -> str:
    if name == LARGE and fleet.fewest is not None:
        return f"{fleet.fewest}-{fleet.replicas[name]}"
    return f"{fleet.replicas[name]}" if name in fleet.replicas else ""


def plan_table(plan: Plan, service: Service) -> pd.DataFrame:
    """A row for each goal and setup: replicas and hours a day by stage, seconds, share at work, price of a day."""
    rows = []
    for sized in plan.sized:
        for key in SETUPS:
            row: dict[str, object] = {"goal_p95": sized.goal, "setup": key}
            if (fleet := getattr(sized, key)) is not None:
                row |= {f"replicas_{name}": count for name, count in fleet.replicas.items()}
                row |= {"fewest_large": fleet.fewest}
                row |= {f"hours_{name}": hours for name, hours in fleet.hours.items()}
                row |= dict(zip(("p50", "p95", "p99"), fleet.latency, strict=True)) | {"at_work": fleet.at_work}
                row |= {"price": fleet.price(service.prices)} if service.prices else {}
            rows.append(row)
    return pd.DataFrame(rows)
