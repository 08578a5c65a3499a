"""Ray Data's pool of UBM workers over as many processes that ask the predictor by themselves.

Nobody is sent on to the large model. Both read the same parts of a prepared dataset, a thread a worker; the pool also
routes and writes outcomes. Beyond start-up: from the sixth part written to the last.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks import workload
from benchmarks.speed.sides import Row, Spread
from uacs.cluster.memory import keep_freed
from uacs.data.prepared import PreparedDataset

PARTS, PART = 24, 256  # of that many clips each
WORKERS = (1, 2)
SETTLED = 6  # parts by which every worker is at work
WIDTH, LAYERS = 256, 4


def measure(out: Path, rounds: int) -> Iterator[Row]:
    """The rows of part pool."""
    from uacs.cluster.session import ray_session

    data = workload.dataset(out / "pool", PARTS * PART)
    ubm = workload.ubm(out / "pool", data, LAYERS, WIDTH)
    spec = workload.recorded(out / "pool", data)
    pace: dict[int, list[tuple[float, float]]] = {workers: [] for workers in WORKERS}
    with ray_session():
        for _ in range(rounds):
            for workers in WORKERS:
                alone = PARTS * PART / of_processes(data, ubm, workers)
                pooled = of_pool(data, ubm, spec, workers, out / "pool" / f"run-{time.time_ns()}")
                pace[workers].append((pooled, alone))
    for workers, found in pace.items():
        of = f"{workers} worker{'s' * (workers > 1)}, BERT {WIDTH} x {LAYERS}"
        yield Row("pool over predictor, in pace", of, Spread.of([p / a for p, a in found]), at_least=0.9)
        yield Row("pool", of, Spread.of([1000 / p for p, _ in found]), "ms a clip")


def of_processes(data: PreparedDataset, ubm: Path, workers: int) -> float:
    """Seconds that so many predictors take over split test, each in a process of its own; all begin at once."""
    context = get_context("spawn")
    barrier = context.Barrier(workers)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=join, initargs=(barrier,)) as processes:
        shares = [processes.submit(answer, data.folder, ubm, number, workers) for number in range(workers)]
        times = [share.result() for share in shares]
    return max(end for _, end in times) - min(start for start, _ in times)


def join(barrier) -> None:
    """Where this process waits for the others, once it is warm; it keeps freed memory, as a worker does."""
    global all_there
    all_there = barrier
    keep_freed()


def answer(folder: Path, ubm: Path, number: int, workers: int) -> tuple[float, float]:
    """Answer a share of the parts; when it began and ended."""
    from uacs.ubm.predictor import SmallPredictor

    data, predictor = PreparedDataset(folder), SmallPredictor(ubm, threads=1)
    predictor.predict(data.read(data.parts("test")[0]))  # warms up
    all_there.wait()
    began = time.time()
    for part in data.parts("test")[number::workers]:
        predictor.predict(data.read(part))
    return began, time.time()


def of_pool(data: PreparedDataset, ubm: Path, spec: str, workers: int, run: Path) -> float:
    """Samples a second of `uacs evaluate` where nobody is unsure."""
    from uacs.cascade.thresholds import Thresholds
    from uacs.cluster.evaluation import Models, evaluate
    from uacs.cluster.resources import Resources
    from uacs.config import EvaluationSettings

    settings = EvaluationSettings(resources=Resources(pool=(workers, workers)))
    evaluate(Models(data, "test", ubm, spec), Thresholds(tau_small=1e9, tau_large=1e9), run, settings)
    written = sorted(path.stat().st_mtime for path in (run / "outcomes").glob("*.parquet"))
    return (PARTS - SETTLED) * PART / (written[-1] - written[SETTLED - 1])
