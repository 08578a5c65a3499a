"""A whole evaluation over its stages alone, and over the large model alone.

Alone: a process a core, the UBM on all clips, the large model on the very chunks that the evaluation sends it, second
looks included. The evaluation has a replica a core. Then both have one core fewer: Ray's own processes and the UBM's
workers need some of one, which all cores at work cannot give. The evaluation's wall is taken from when it first tells
of small answers to when its last part is written; what was done by then is left out of the sum as well. All keep freed
memory. The large model is a small Qwen2.5-Omni on text; by the thresholds the share that is wanted goes to it, and a
quarter of that looks twice at most.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import workload
from benchmarks.speed.pool import of_processes
from benchmarks.speed.sides import Row, Spread
from uacs.cascade import routing
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.memory import keep_freed
from uacs.cluster.progress import Progress
from uacs.data.prepared import PreparedDataset
from uacs.mllm import MllmSettings, build
from uacs.mllm.chunk import Chunk, ChunkAnswer, answer_chunk, ask

CLIPS, CHUNK, SHARE, LOOKS = 2_048, 32, 0.35, 0.25
CORES = os.cpu_count() or 1
WIDTH, LAYERS, EPOCHS = 640, 6, 2  # of the large model, and of its training
PAPER = {"CMU-MOSI": (0.348, 0.33), "CMU-MOSEI": (0.574, 0.57), "CH-SIMS": (0.392, 0.55)}
"""Of each dataset the share that the paper's UBM sends on, and its run time over the large model's alone."""


@dataclass(frozen=True)
class Material:
    """What all runs share."""

    data: PreparedDataset
    ubm: Path
    large: str
    thresholds: Thresholds


def measure(out: Path, rounds: int) -> Iterator[Row]:
    """The rows of part cascade."""
    from uacs.cluster.session import ray_session

    made = material(out / "cascade")
    sizes = [CORES, CORES - 1] if CORES > 1 else [CORES]
    all_of: dict[int, dict[str, list[float]]] = {cores: defaultdict(list) for cores in sizes}
    with ray_session():
        for _ in range(rounds):
            for cores, found in all_of.items():
                small = of_processes(made.data, made.ubm, cores)
                some, every, share = large_alone(made, cores)
                wall, answered, asked = whole(made, out / "cascade" / f"run-{time.time_ns()}", share, cores)
                before = small * answered + some * asked  # what was done when the clock began
                found["over its stages"].append(wall / (small + some - before))
                found["over large alone"].append((wall + before) / every)
                found["small"].append(small / every)
                found["large"].append(every)
                found["each sent"].append(some / every / share)
    for cores, found in all_of.items():
        with_ = f"{CLIPS:,} clips, models on {cores} of {CORES} cores"
        yield Row(
            "evaluation over the sum of its stages alone", with_, Spread.of(found["over its stages"]), at_most=1.1
        )
    found, of = all_of[CORES], f"{CLIPS:,} clips, {share:.0%} sent on"
    yield Row("evaluation over the large model alone", of, Spread.of(found["over large alone"]))
    yield Row("the UBM alone over the large model alone", of, Spread.of(found["small"]), digits=3)
    yield Row("large model alone, all cores", of, Spread.of([1000 * s / CLIPS for s in found["large"]]), "ms a clip", 1)
    for dataset, (sent, reported) in PAPER.items():
        of = f"{dataset}, {sent:.1%} sent on"
        yield Row("the paper's run time over the large model alone", of, Spread.of([reported]))
        pairs = zip(found["over large alone"], found["each sent"], strict=True)
        ours = [over - each * (share - sent) for over, each in pairs]
        yield Row("this evaluation's, reckoned at that share", of, Spread.of(ours))


def material(folder: Path) -> Material:
    """Made once: data, both models, and thresholds by which the shares go on."""
    from uacs.ubm.predictor import SmallPredictor

    data = workload.dataset(folder, CLIPS)
    ubm, spec = workload.ubm(folder, data), workload.large(folder, data, WIDTH, LAYERS, EPOCHS)
    samples = list(data.samples("test"))
    small = np.array([output.u for output in SmallPredictor(ubm, threads=CORES).predict(samples)])
    large = build(spec, answering(), data.info.score_range).answer(samples[:128])
    taus = np.quantile(small, 1 - SHARE), np.nanquantile([output.u for output in large], 1 - LOOKS)
    return Material(data, ubm, spec, Thresholds(tau_small=float(taus[0]), tau_large=float(taus[1])))


def answering() -> MllmSettings:
    """How the large model answers, in as many processes as there are cores."""
    return MllmSettings(readout="trie", batch_size=CHUNK)


def large_alone(made: Material, cores: int) -> tuple[float, float, float]:
    """Seconds on so many cores of the chunks that the cascade sends, of all clips once, and the share that is sent."""
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as processes:
        shares = [processes.submit(share_of_large, made, number, cores) for number in range(cores)]
        some, every, sent = zip(*(share.result() for share in shares), strict=True)
    return sum(some) / cores, sum(every) / cores, sum(sent) / CLIPS


def share_of_large(made: Material, number: int, cores: int) -> tuple[float, float, int]:
    """What one process does: seconds of the chunks of its parts, seconds of all their clips, and clips sent."""
    from uacs.ubm.predictor import SmallPredictor

    keep_freed()
    data, tau = made.data, made.thresholds
    model = build(made.large, answering(), data.info.score_range)
    predictor = SmallPredictor(made.ubm)
    seconds, sent, parts = 0.0, 0, data.parts("test")[number::cores]
    model.answer(data.read(parts[0])[:CHUNK])  # warms up

    def answered(chunks: list[Chunk]) -> list[ChunkAnswer]:
        nonlocal seconds
        began = time.perf_counter()
        answers = [answer_chunk(model, chunk) for chunk in chunks]
        seconds += time.perf_counter() - began
        return answers

    for part in parts:
        found = data.read(part)
        small = predictor.predict(found)
        due = routing.escalated(np.array([s.u for s in small]), tau.tau_small)
        sent += int(due.sum())
        ask(found, small, due, tau.tau_large, "due", CHUNK, answered)
    some = data.read(parts[0])
    began = time.perf_counter()
    for at in range(0, len(some), CHUNK):
        model.answer(some[at : at + CHUNK])
    return seconds, (time.perf_counter() - began) * len(parts), sent


def whole(made: Material, run: Path, share: float, cores: int) -> tuple[float, float, float]:
    """Seconds of `uacs evaluate` with so many replicas beyond start-up; of all clips, and of those that are sent, the
    shares done before."""
    from uacs.cluster.evaluation import Models, evaluate
    from uacs.cluster.resources import Resources
    from uacs.config import EvaluationSettings

    begun: list[tuple[float, float, float]] = []

    def told(progress: Progress) -> None:
        counts = progress.counts
        if counts.small and not begun:
            begun.append((time.time(), counts.small / CLIPS, counts.asked / (share * CLIPS)))

    replicas = Resources(replicas=(cores, cores))
    settings = EvaluationSettings(mllm=answering(), chunk_size=CHUNK, resources=replicas)
    evaluate(Models(made.data, "test", made.ubm, made.large), made.thresholds, run, settings, progress=told)
    written = max(path.stat().st_mtime for path in (run / "outcomes").glob("*.parquet"))
    (began, answered, asked), *_ = begun
    return written - began, answered, asked
