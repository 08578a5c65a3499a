"""Raw clips through the whole cascade, beside the slowest of its parts alone with all cores, and what memory it takes.

    make demo OUT=/tmp/demo
    python -m benchmarks.clips.pipeline /tmp/demo --out docs

Thirty clips of 640 x 360 and 4 s are shown again and again under other names, with the demo's models, everyone asked
(the dearest case). Seconds a clip are those of `--more` clips beyond the first 300, so that what starts once does not
count, and the parts alone are measured after each run, for a machine has its moods. Memory is what all processes of
the run hold for themselves at most, and once what is shared. Prints Markdown and draws where the time goes into
OUT/clips.svg.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import psutil

from benchmarks.clips.footage import shoot
from benchmarks.clips.speed import bare
from uacs import mllm
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.evaluation import Models, evaluate
from uacs.cluster.resources import Resources
from uacs.cluster.session import ray_session
from uacs.config import EvaluationSettings
from uacs.data.clips import ClipPool, ClipSettings
from uacs.data.extract import BASIC, Wanted
from uacs.data.prepare import PrepareSettings, open_dataset
from uacs.demo import MLLM
from uacs.mllm import MllmSettings
from uacs.records import Sample
from uacs.ubm.predictor import SmallPredictor

FIRST, SHOT, ALONE = 300, 30, 150
WANTED = Wanted({"audio": BASIC, "vision": BASIC}, MLLM["frames"])
SETTINGS = EvaluationSettings(mllm=MllmSettings(**MLLM), resources=Resources(pool=1, decoders=os.cpu_count() or 2))


@dataclass
class Held:
    """MiB at most, of all processes."""

    most: float = 0.0


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--more", type=int, default=300, help="clips beyond the first 300")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shots = [shoot(Path(folder) / f"{k}.mp4", k) for k in range(SHOT)]
        alone, runs = [], {}
        with ray_session():
            for count in (SHOT, FIRST, FIRST + options.more):  # the first warms up
                runs[count] = _run(options.demo, shots, count, Path(folder) / str(count))
                alone.append(_alone(options.demo, [str(shot) for shot in shots] * (ALONE // SHOT)))
    alone = {part: sum(times[part] for times in alone) / len(alone) for part in alone[0]}  # a machine has its moods
    (few, held), (many, most) = runs[FIRST], runs[FIRST + options.more]
    whole = (many - few) / options.more
    slowest = max(("looking at clips", "the UBM", "the large model"), key=lambda part: alone[part])
    print(f"{os.cpu_count()} cores, clips of 640 x 360, 4 s; everyone is asked\n")
    print("| alone | ms a clip | clips/s |\n|---|---:|---:|")
    for part, seconds in alone.items():
        print(f"| {part} | {seconds * 1000:.1f} | {1 / seconds:.1f} |")
    print(f"| **the whole run** | {whole * 1000:.1f} | {1 / whole:.1f} |")
    print(f"\nwhole run: {alone[slowest] / whole:.2f} of the pace of its slowest part ({slowest}) alone with all cores")
    print(f"memory: {held:.0f} MiB over {FIRST} clips, {most:.0f} MiB over {FIRST + options.more}")
    if options.out:
        _draw(alone, whole, options.out / "clips.svg")


def _alone(demo: Path, clips: list[str]) -> dict[str, float]:
    """Seconds a clip of each part: FFmpeg's decode and looking by as many processes as cores, models in this one."""
    cores = os.cpu_count() or 2
    samples = [Sample(str(k), "so so", clip=clip) for k, clip in enumerate(clips)]
    small = SmallPredictor(demo / "ubm", SETTINGS.batch_size)
    large = mllm.build(str(demo / "mllm"), SETTINGS.mllm, (-3.0, 3.0))
    with ClipPool(ClipSettings().limits, cores) as pool:
        pool.look_at(samples[: 8 * cores], WANTED)
        seconds, looked = _timed(lambda: pool.look_at(samples, WANTED))
    decoding, _ = _timed(lambda: [bare(clip) for clip in clips])
    answers, outputs = _timed(lambda: small.predict(looked))
    asking, _ = _timed(lambda: large.answer_and_verify(looked, outputs, lambda *_: [False] * len(_[0])))
    each = {"FFmpeg's decode": decoding / cores, "looking at clips": seconds, "the UBM": answers}
    return {part: took / len(clips) for part, took in (each | {"the large model": asking}).items()}


def _timed(work):
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def _run(demo: Path, shots: list[Path], count: int, folder: Path) -> tuple[float, float]:
    """Seconds of a run over so many clips, and MiB at most."""
    (folder / "clips").mkdir(parents=True)
    for k in range(count):
        os.link(shots[k % SHOT], folder / "clips" / f"{k:05d}.mp4")
        (folder / "clips" / f"{k:05d}.txt").write_text("so so")
    data = open_dataset(folder / "clips", folder, PrepareSettings(dataset="demo", like="mosi"), later=True)
    models = Models(data, "test", demo / "ubm", str(demo / "mllm"))
    thresholds = Thresholds.load(demo / "calibration" / "thresholds.json")
    with _watched() as held:
        seconds, _ = _timed(lambda: evaluate(models, thresholds, folder / "run", SETTINGS, all_stages=True))
    shutil.rmtree(folder)
    return seconds, held.most


@contextmanager
def _watched() -> Iterator[Held]:
    """What this process and all below it hold, looked at every second: what each has alone, and once what is shared."""
    held, done = Held(), threading.Event()

    def watch() -> None:
        while not done.wait(1):
            alone, shared = 0, 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    memory = process.memory_info()
                except psutil.Error:  # it has just ended
                    continue
                alone, shared = alone + memory.rss - memory.shared, max(shared, memory.shared)
            held.most = max(held.most, (alone + shared) / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield held
    finally:
        done.set()
        watcher.join()


def _draw(alone: dict[str, float], whole: float, path: Path) -> None:
    parts = {**alone, "the whole run": whole}
    figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
    colours = ["#9aa5b1"] * len(alone) + ["#2563eb"]
    bars = axes.barh(list(parts), [seconds * 1000 for seconds in parts.values()], color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_xlabel("ms a clip, each part alone with all cores; below, all of them together")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
