"""The command `uacs plan`: how many replicas so many clips a day want."""

import math
from typing import TYPE_CHECKING

import click

from uacs.cli_options import FOLDER, PLACE, finite, notes
from uacs.errors import Refused, WrongUse

if TYPE_CHECKING:
    from uacs.cascade.sizing import Costs

GOALS = (1.0, 2.0, 5.0, 10.0)
STAGES = ("small", "large", "verify")


@click.command(
    epilog="Example: uacs plan runs/demo/baseline --clips-per-day 1e6 --seconds large=0.55 --seconds verify=0.4 "
    "--price large=2.50"
)
@click.argument("run", type=PLACE)
@click.option("--clips-per-day", type=click.FloatRange(100, 1e7), callback=finite, required=True, help="As 1e6.")
@click.option(
    "--peak",
    type=click.FloatRange(1, 20),
    callback=finite,
    default=2.0,
    show_default=True,
    help="Clips a second at noon, when most come, over the day's mean.",
)
@click.option(
    "--p95",
    "goals",
    type=click.FloatRange(0, min_open=True),
    callback=lambda c, o, values: [finite(c, o, value) for value in values],
    multiple=True,
    metavar="SECONDS",
    help="A goal: seconds within which 95 % are answered; may be given more than once; default: 1, 2, 5 and 10.",
)
@click.option("--thresholds", type=PLACE, help="Which clips go on; default: RUN's own thresholds.json.")
@click.option(
    "--seconds",
    multiple=True,
    metavar="STAGE=[BATCH+]SECONDS",
    help="Mean of a clip in stage small, large or verify on the machine that you will use, and of a batch besides, as "
    "large=0.1+0.4; default: as RUN measured.",
)
@click.option(
    "--batch",
    multiple=True,
    metavar="STAGE=CLIPS",
    help="Most clips that are answered at once; default: small=64, large=16, verify=16.",
)
@click.option("--price", multiple=True, metavar="STAGE=PRICE", help="Price of one replica for an hour, as large=2.50.")
@click.option(
    "--loading",
    type=click.FloatRange(0),
    callback=finite,
    default=120.0,
    show_default=True,
    help="Seconds until a replica of the large model answers.",
)
@click.option(
    "--way",
    type=click.FloatRange(0),
    callback=finite,
    default=0.03,
    show_default=True,
    help="Seconds of a request that are no model's.",
)
@click.option("--csv", type=FOLDER, help="Write the table to this file as well.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the clips that come.")
def plan(run, clips_per_day, peak, goals, thresholds, seconds, batch, price, loading, way, csv, seed) -> None:
    """Simulate an endpoint's day, and say how many replicas answer 95 % of the clips in time.

    RUN is one of `uacs calibrate` or `uacs evaluate`: its clips and their seconds are what comes. Three ways are
    compared: replicas that stay, Serve's autoscaling, and the large model alone.
    """
    from uacs.cascade import sizing
    from uacs.cascade.outcomes import with_decision
    from uacs.cascade.sizing import Day, Service, costs
    from uacs.cluster.runs import Run, read_thresholds, refuse_other_models
    from uacs.cluster.serving.scaling import replicas_wanted
    from uacs.console import counter
    from uacs.report.plan_text import plan_table, plan_text

    each, fixed = _costs(_of_stages("--seconds", seconds))
    batches = {stage: int(n) for stage, n in _numbers("--batch", batch, 1, whole=True).items()}
    prices = _numbers("--price", price, 0)
    if csv and not csv.absolute().parent.is_dir():
        raise WrongUse(f"--csv {csv}: no such folder; make it, or name another")
    found = Run.open(run)
    identity = found.manifest["identity"]
    if identity["command"] not in ("calibrate", "evaluate"):
        raise Refused(f"{run}: a run of `uacs {identity['command']}`; name one of `uacs calibrate` or `uacs evaluate`")
    found.metrics()  # raises if it is not finished
    verifier = "verifier" in identity
    for option, told in (("--batch", {*batches}), ("--price", {*prices})):
        if "verify" in told and not verifier:
            raise WrongUse(f"{option} verify: stage 3 is the large model's in {run}; give that of stage large alone")
    given = read_thresholds(thresholds or found.place("thresholds.json"))
    refuse_other_models(given, identity)
    table = with_decision(found.table(), given.tau_small, given.tau_large, given.deferral)
    clips = costs(table, each, verifier, 0.0 if verifier else fixed.pop("verify", 0.0))
    notes(_filled(clips, str(run)))
    service = Service(Service().batch | batches, fixed, way, loading, prices)
    day, wanted = Day(clips_per_day, peak), sorted(set(goals or GOALS))
    with counter("simulating") as progress:
        found_plan = sizing.plan(clips, day, wanted, service, replicas_wanted, seed, progress)
    print(plan_text(found_plan, clips, day, service))
    if csv:
        plan_table(found_plan, service).to_csv(csv, index=False)
        print(f"\n{csv}: the same as a table")


def _filled(clips: "Costs", run: str) -> list[str]:
    """What a run does not know of its clips."""
    said = [f"{clips.left_out} clips of {run} have no answer, and are not among those that come"] * bool(clips.left_out)
    for stage, count in clips.filled.items():
        if count and stage == "alone":
            mend = "`uacs evaluate --all-stages` asks about everyone"
            said.append(
                f"{count} clips of {run} never went to the large model; alone it takes the others' mean; {mend}"
            )
        elif count:
            said.append(f"{count} clips of {run} were not timed in stage {stage}, and have the others' mean there")
    return said


def _of_stages(option: str, words: tuple[str, ...]) -> dict[str, str]:
    """STAGE=VALUE, by stage."""
    found: dict[str, str] = {}
    for word in words:
        stage, _, value = word.partition("=")
        if stage not in STAGES or not value:
            raise WrongUse(f"{option} {word}: expected STAGE=NUMBER, of stage {', '.join(STAGES)}")
        if stage in found:
            raise WrongUse(f"{option} {word}: {stage} is named twice; name it once")
        found[stage] = value
    return found


def _numbers(option: str, words: tuple[str, ...], least: float, whole: bool = False) -> dict[str, float]:
    return {stage: _number(option, stage, value, least, whole) for stage, value in _of_stages(option, words).items()}


def _number(option: str, stage: str, value: str, least: float, whole: bool = False) -> float:
    try:
        number = int(value) if whole else float(value)
    except ValueError:
        raise WrongUse(f"{option} {stage}={value}: no {'whole ' * whole}number") from None
    if not (math.isfinite(number) and number >= least):
        raise WrongUse(f"{option} {stage}={value}: a number of {least:g} or more is wanted")
    return number


def _costs(words: dict[str, str]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of a clip, and of a batch beside its clips', by stage, of [BATCH+]SECONDS."""
    each, fixed = dict[str, float](), dict[str, float]()
    for stage, word in words.items():
        batch, plus, clip = word.rpartition("+")
        each[stage] = _number("--seconds", stage, clip, 0)
        if plus:
            fixed[stage] = _number("--seconds", stage, batch, 0)
    return each, fixed
