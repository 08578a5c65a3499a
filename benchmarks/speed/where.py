"""Where the time goes: of an evaluation from start to end, and of a request by the stage that settles it.

Also drawn, as OUT/where.svg. The evaluation is the demo's, over split test; requests are its clips' texts and features,
one after the other.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median
from unittest.mock import patch

import httpx2
import yaml

from benchmarks.serving.bodies import of_demo
from benchmarks.serving.endpoint import endpoint
from benchmarks.speed.sides import Row, Spread

STEPS = (
    "Python imports",
    "Ray and Serve start",
    "the large model loads",
    "the UBM's workers start",
    "clips",
    "report, end",
)
PARTS = ("HTTP, Ray, queues", "UBM", "large model", "second look")
STAGES = ("small", "large", "average", "verify")
REQUESTS = 200
COLOURS = ("#999999", "#CC79A7", "#D55E00", "#E69F00", "#0072B2", "#56B4E9")


def measure(out: Path, rounds: int, demo: Path) -> Iterator[Row]:
    """The rows of part where."""
    runs = [apart(evaluation, demo, out / f"where-{time.time_ns()}") for _ in range(rounds)]
    steps = {step: [run[step] for run in runs] for step in STEPS}
    for step, seconds in steps.items():
        yield Row(step, "evaluation of the demo's test split", Spread.of(seconds), "s", 1)
    requests = of_requests(demo)
    for stage, parts in requests.items():
        for part in PARTS:
            yield Row(part, f"request that stage {stage} settles", Spread.of([1000 * p[part] for p in parts]), "ms", 1)
    middle = {
        stage: {part: 1000 * median(p[part] for p in parts) for part in PARTS} for stage, parts in requests.items()
    }
    draw({step: median(seconds) for step, seconds in steps.items()}, middle, out / "where.svg")


def apart(work: Callable, *words):
    """In a process of its own, which imports everything anew."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *words).result()


def evaluation(demo: Path, run: Path) -> dict[str, float]:
    """Seconds of each step of `uacs evaluate`, in this process."""
    at = [time.time()]

    def passed() -> None:
        at.append(time.time())

    from uacs.cascade.thresholds import Thresholds
    from uacs.cluster import evaluation
    from uacs.config import EvaluationSettings
    from uacs.data.prepared import PreparedDataset

    passed()
    answering = yaml.safe_load((demo / "serve.yaml").read_text())["settings"]
    models = evaluation.Models(PreparedDataset(demo / "data"), "test", demo / "ubm", str(demo / "mllm"))
    begun: list[float] = []

    def told(progress) -> None:
        if progress.counts.small and not begun:
            begun.append(time.time())

    def then(work: Callable) -> Callable:
        def whole(*words, **more):
            done = work(*words, **more)
            passed()
            return done

        return whole

    with ExitStack() as patched:
        for name in ("start_serve", "deploy"):
            patched.enter_context(patch.object(evaluation, name, then(getattr(evaluation, name))))
        thresholds = Thresholds.load(demo / "calibration" / "thresholds.json")
        evaluation.evaluate(models, thresholds, run, EvaluationSettings(mllm=answering), progress=told)
    written = max(path.stat().st_mtime for path in (run / "outcomes").glob("*.parquet"))
    at += [begun[0], written, time.time()]
    return {step: end - start for step, (start, end) in zip(STEPS, pairwise(at), strict=True)}


def of_requests(demo: Path) -> dict[str, list[dict[str, float]]]:
    """By the stage that settles a request, seconds of its parts."""
    found = defaultdict(list)
    with endpoint(demo) as url, httpx2.Client(timeout=60) as client:
        for k, body in enumerate(of_demo(demo)[: REQUESTS + 20]):
            began = time.perf_counter()
            answer = client.post(f"{url}/v1/predict", json=body).raise_for_status().json()
            whole, took = time.perf_counter() - began, answer["seconds"]
            models = [took[name] or 0.0 for name in ("small", "large", "verify")]
            if k >= 20:  # the first warm up
                parts = (whole - sum(models), *models)
                found[answer["stage"]].append(dict(zip(PARTS, parts, strict=True)))
    return {stage: found[stage] for stage in STAGES if found[stage]}


def draw(steps: dict[str, float], requests: dict[str, dict[str, float]], path: Path) -> None:
    """Two stacked bars, one above the other."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "uacs"
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, figsize=(7.4, 4.6), height_ratios=(1, 2), layout="constrained")
    stacked(above, {"evaluation": steps}, COLOURS)
    above.set_xlabel("seconds, the demo's 1,000 test clips from start to end")
    stacked(below, {f"settled by {stage}": parts for stage, parts in requests.items()}, COLOURS[:1] + COLOURS[3:0:-1])
    below.set_xlabel("milliseconds of a request, one client")
    figure.savefig(path, metadata={"Date": None})


def stacked(axes, bars: dict[str, dict[str, float]], colours: tuple[str, ...]) -> None:
    """Each bar's parts in turn, with their numbers where there is room."""
    most = max(sum(parts.values()) for parts in bars.values())
    left = dict.fromkeys(bars, 0.0)
    for colour, part in zip(colours, next(iter(bars.values())), strict=False):
        widths = [parts[part] for parts in bars.values()]
        drawn = axes.barh(list(bars), widths, left=list(left.values()), color=colour, label=part, height=0.6)
        axes.bar_label(
            drawn, [f"{w:.1f}" if w > 0.04 * most else "" for w in widths], label_type="center", color="white"
        )
        left = {name: left[name] + width for name, width in zip(bars, widths, strict=True)}
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize="small")
