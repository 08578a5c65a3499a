"""What `uacs plan` reckons, beside what an endpoint does: throughput and p95 in settings that it was not fitted to.

The endpoint is real, over HTTP. Its large model is recorded answers that come after as long as a large model might take
(`pace`), so that replicas need no cores. What the reckoning is told was measured before, in other settings: HTTP's and
Ray's way by one client alone, and how long replicas load while others work. In each setting both have the same clips,
at the same times; which replica has which, their growth and all waiting are the reckoning's own. OUT/plan.svg has both.
"""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray import serve

from benchmarks.serving.bodies import of_demo
from benchmarks.serving.clients import closed, codes, opened
from benchmarks.serving.endpoint import free_port
from benchmarks.speed.sides import Row, Spread
from uacs.cascade.queues import Stage, in_line
from uacs.cascade.sizing import LARGE, SMALL, Costs, Service, costs
from uacs.cluster.runs import Run, read_thresholds
from uacs.cluster.serving.application import application
from uacs.cluster.serving.local import start_http
from uacs.cluster.serving.scaling import replicas_wanted
from uacs.cluster.serving.settings import EndpointSettings
from uacs.cluster.session import ray_session

BATCH, QUEUE, DEADLINE = 4, 4000, 120.0
SECONDS, SPREAD, AGAIN = 0.25, 0.5, 0.6  # of stage 2 in the middle; deviation of their logarithm; share of stage 3
WITHIN = 0.15
APP = "plan"
ALONE, WARM = 20.0, 3.0  # seconds in which one client asks, to be measured and before a load


@dataclass(frozen=True)
class Setting:
    """Replicas of the large model, FEWEST-MOST where they grow; the load, in replicas, and for how many seconds."""

    name: str
    replicas: str
    load: float
    seconds: float


MORE = "two replicas, 1.2"  # of what they can do: elsewhere as many clips are done as come
FITTED = Setting("two replicas of work, where four may come", "1-4", 2.0, 30)
SETTINGS = (
    Setting("one replica, 0.6 of what it can do", "1", 0.6, 60),
    Setting("three replicas, 0.85", "3", 2.55, 60),
    Setting(MORE, "2", 2.4, 40),
    Setting("one replica that may become four, 1.6", "1-4", 1.6, 60),
)
Sides = tuple[np.ndarray, np.ndarray, np.ndarray]
"""When clips came, were done, and by the reckoning were done, (N,) each, in seconds."""


def measure(out: Path, rounds: int, demo: Path) -> Iterator[Row]:
    """The rows of part plan."""
    rehearsal, every = Rehearsal(demo, out / f"plan-{time.time_ns()}"), list[list[Sides]]()
    with ray_session():
        port = free_port()
        start_http("127.0.0.1", port, DEADLINE)
        rehearsal.url = f"http://127.0.0.1:{port}"
        service = rehearsal.fitted()
        yield Row("told: HTTP's and Ray's way", "one client alone", Spread.of([service.way * 1000]), "ms", 0)
        yield Row("told: replicas load for", FITTED.name, Spread.of([service.loading]), "s", 1)
        for setting in SETTINGS:
            every.append([rehearsal.beside(setting, service, seed) for seed in range(rounds)])
            yield from rows(setting.name, every[-1])
    draw({setting.name: sides[0] for setting, sides in zip(SETTINGS, every, strict=True)}, out / "plan.svg")


def rows(name: str, sides: list[Sides]) -> Iterator[Row]:
    """What was reckoned over what was measured, in each round, and what was measured."""
    for what, unit, of in (
        ("throughput", "clips/s", lambda came, done: len(done) / (done.max() - came[0])),
        ("p50", "s", lambda came, done: np.percentile(done - came, 50)),
        ("p95", "s", lambda came, done: np.percentile(done - came, 95)),
    ):
        real = [float(of(came, done)) for came, done, _ in sides]
        off = [float(of(came, reckoned)) / seen for (came, _, reckoned), seen in zip(sides, real, strict=True)]
        bounded = what == "p95" or (what == "throughput" and name == MORE)
        bounds = {"at_least": 1 - WITHIN, "at_most": 1 + WITHIN} if bounded else {}
        yield Row(f"{what}, reckoned over measured", name, Spread.of(off), **bounds)
        yield Row(f"{what}, measured", name, Spread.of(real), unit)


class Rehearsal:
    """A demo's UBM behind HTTP, with answers of its large model that take their time, and requests of its test split.

    The clips' costs are in the requests' order.
    """

    def __init__(self, demo: Path, out: Path):
        out.mkdir(parents=True)
        run, self.demo, self.url = Run.open(demo / "baseline"), demo, ""
        table, self.answers, self.thresholds = run.table(), out / "answers.parquet", out / "thresholds.json"
        seconds = np.exp(np.random.default_rng(0).normal(np.log(SECONDS), SPREAD, len(table)))
        for name, each in (("seconds_large", seconds), ("seconds_verify", AGAIN * seconds)):
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(each))
        columns = ["sample_id", "y_large", "u_large", "y_verify", "u_verify", "seconds_large", "seconds_verify"]
        pq.write_table(table.select(columns), self.answers)
        taus = read_thresholds(run.place("thresholds.json"))
        self.thresholds.write_text(json.dumps({"tau_small": taus.tau_small, "tau_large": taus.tau_large}))
        self.bodies = of_demo(demo)
        at = {sample_id: i for i, sample_id in enumerate(table["sample_id"].to_pylist())}
        rows, found = [at[body["sample_id"]] for body in self.bodies], costs(table, {})
        assert not found.left_out  # rows are the table's
        self.costs = Costs({name: each[rows] for name, each in found.seconds.items()}, found.alone[rows])

    def load(self, setting: Setting) -> float:
        """Its requests a second."""
        return setting.load / float(np.nan_to_num(self.costs.seconds[LARGE]).mean())

    @contextmanager
    def endpoint(self, setting: Setting) -> Iterator["_Watch"]:
        """The endpoint with a setting's replicas, after some requests of one client."""
        told = {
            "ubm": str(self.demo / "ubm"),
            "mllm": f"recorded:{self.answers}",
            "thresholds": str(self.thresholds),
            "settings": {"pace": 1.0, "batch_size": BATCH},
            "large_pool": {"replicas": setting.replicas, "queue": QUEUE},
            "small_pool": {"queue": QUEUE},
            "endpoint_pool": {"queue": QUEUE},
            "limits": {"deadline": DEADLINE, "requests": QUEUE},
        }
        with _Watch() as watch:
            serve.run(application(EndpointSettings.model_validate(told)), name=APP, route_prefix="/")
            try:
                asyncio.run(closed(self.url, self.bodies, 1, WARM))
                yield watch
            finally:
                serve.delete(APP)

    def fitted(self) -> Service:
        """The way and the loading, measured."""
        with self.endpoint(FITTED) as watch:
            alone = asyncio.run(closed(self.url, self.bodies, 1, ALONE))
            asyncio.run(opened(self.url, self.bodies, self.load(FITTED), FITTED.seconds))
            loading = watch.loading()
        needed = sum(np.nan_to_num(each) for each in self.costs.seconds.values())
        took = [one.seconds - needed[(k + 1) % len(needed)] for k, one in enumerate(alone)]  # it begins with the second
        return Service({SMALL: 64, LARGE: BATCH}, way=median(took), loading=loading)

    def beside(self, setting: Setting, service: Service, seed: int) -> Sides:
        """A load, measured and reckoned."""
        with self.endpoint(setting) as watch:
            found = asyncio.run(opened(self.url, self.bodies, self.load(setting), setting.seconds, seed))
        if any(one.code != 200 or one.status != "ok" for one in found):
            raise SystemExit(f"{setting.name}: {codes(found)}, some of them degraded; nothing to compare")
        began, ended = (np.array([getattr(one, name) for one in found]) for name in ("began", "ended"))
        came = began - began[0]
        large = self.large(setting, service, watch.up - began[0])
        which = np.arange(len(found)) % len(self.bodies)
        seconds = [self.costs.seconds[name][which] for name in (SMALL, LARGE)]
        reckoned, _ = in_line([service.stage(SMALL, 1), large], came, seconds, np.random.default_rng(seed))
        return came, ended - began[0], reckoned

    @staticmethod
    def large(setting: Setting, service: Service, since: float) -> Stage:
        """The large model's replicas, whose reports come since then where they grow."""
        fewest, _, most = setting.replicas.partition("-")
        if not most:
            return service.stage(LARGE, int(fewest))
        stage = service.growing(LARGE, int(fewest), int(most), replicas_wanted)
        assert stage.growth
        return replace(stage, growth=replace(stage.growth, since=since))


class _Watch:
    """Replicas of the large model by their state, whenever that changes."""

    def __enter__(self) -> "_Watch":
        self.seen: list[tuple[float, dict[str, int]]] = []
        self.over, self.thread = threading.Event(), threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.over.wait(0.2):
            app = serve.status().applications.get(APP)
            if app and (deployment := app.deployments.get(LARGE)):
                states = {str(state): count for state, count in deployment.replica_states.items()}
                if not self.seen or self.seen[-1][1] != states:
                    self.seen.append((time.perf_counter(), states))

    @property
    def up(self) -> float:
        """When the first one ran."""
        return next(at for at, states in self.seen if states.get("RUNNING"))

    def loading(self) -> float:
        """Seconds from when more were started until all ran."""
        later = [(at, states) for at, states in self.seen if at > self.up]
        started = next(at for at, states in later if states.get("STARTING"))
        return next(at for at, states in later if at > started and not states.get("STARTING")) - started


def draw(settings: dict[str, Sides], path: Path) -> None:
    """For each setting, how many clips took longer than so many seconds."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "uacs"
    from matplotlib import pyplot

    figure, places = pyplot.subplots(1, len(settings), figsize=(9.6, 2.7), sharey=True, layout="constrained")
    for axes, (name, (came, done, reckoned)) in zip(places, settings.items(), strict=True):
        for ended, label, style in ((done, "measured", "-"), (reckoned, "reckoned", "--")):
            taken = np.sort(ended - came)
            axes.plot(taken, 1 - np.arange(len(taken)) / len(taken), style, label=label, lw=1.4)
        axes.axhline(0.05, color="grey", lw=0.6)
        axes.set(xscale="log", yscale="log", ylim=(0.004, 1.1), title="\n".join(name.rsplit(", ", 1)), xlabel="seconds")
        axes.title.set_fontsize("small")
        axes.spines[["top", "right"]].set_visible(False)
    places[0].set(
        ylabel="clips that take longer", yticks=[0.01, 0.05, 0.1, 1], yticklabels=["1 %", "5 %", "10 %", "all"]
    )
    places[0].minorticks_off()
    places[0].legend(frameon=False, fontsize="small", loc="lower left")
    figure.savefig(path, metadata={"Date": None})
