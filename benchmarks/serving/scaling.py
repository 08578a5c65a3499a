"""Replicas of the large model over time: load on, load off; a picture of it.

    make demo OUT=/tmp/demo
    python -m benchmarks.serving.scaling /tmp/demo --out docs/autoscaling.svg

`large_pool.replicas` is 1-3. Sixteen clients ask a large model that is slow enough to need them (untrained:
nobody reads its answers) about everything, for `--seconds`; then nobody does, until one replica is left. Replicas are
counted as processes on this machine, twice a second.
"""

import argparse
import asyncio
import shutil
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.serving.bodies import of_demo
from benchmarks.serving.clients import closed
from benchmarks.serving.endpoint import endpoint, workers
from uacs.mllm import prompts, tiny_omni
from uacs.mllm.tiny_omni import TinySettings

LARGE = "ray::ServeReplica:uacs:large"
SIZES = TinySettings(width=384, layers=8)
LONGEST = 240.0  # seconds until the last replica but one is to be gone


def main() -> None:
    """Measure, print the changes, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    bodies = [body for body in of_demo(options.demo) if len(body.get("text", "")) > 0]
    seen: list[tuple[float, int]] = []
    over = threading.Event()
    scratch = Path(tempfile.mkdtemp(prefix="uacs-scaling-"))
    tiny_omni.create(scratch / "mllm", [body["text"] for body in bodies], prompts.phrases((-3.0, 3.0)), SIZES)
    (scratch / "thresholds.json").write_text('{"tau_small": -1, "tau_large": 9}')  # everything goes on
    pool = ["large_pool.replicas=1-3", "large_pool.queue=256"]
    pool += [f"mllm={scratch / 'mllm'}", f"thresholds={scratch / 'thresholds.json'}"]
    told = [word for setting in pool for word in ("--set", setting)]
    with endpoint(options.demo, *told) as url:
        began = time.perf_counter()

        def watch() -> None:
            while not over.wait(0.5):
                seen.append((time.perf_counter() - began, len(workers(url, LARGE))))

        watcher = threading.Thread(target=watch)
        watcher.start()
        time.sleep(5)
        on = time.perf_counter() - began
        outcomes = asyncio.run(closed(url, bodies, 16, options.seconds))
        off = time.perf_counter() - began
        while len(workers(url, LARGE)) > 1 and time.perf_counter() - began < off + LONGEST:
            time.sleep(0.5)
        time.sleep(5)
        over.set()
        watcher.join()
    shutil.rmtree(scratch)
    changes = [(at, n) for (at, n), (_, before) in zip(seen, [(0.0, 0), *seen], strict=False) if n != before]
    print(f"load from {on:.0f} s to {off:.0f} s, {len(outcomes) / options.seconds:.0f} requests/s")
    print("; ".join(f"{n} at {at:.0f} s" for at, n in changes))
    draw(seen, on, off, options.out)


def draw(seen: list[tuple[float, int]], on: float, off: float, out: Path) -> None:
    """Replicas over seconds, the load behind them."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "uacs"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 2.4), layout="constrained")
    axes.axvspan(on, off, color="#d7e3f4", label="load: 16 clients")
    axes.step(*zip(*seen, strict=True), where="post", color="#2f5f98", label="replicas of the large model")
    axes.set(xlabel="seconds", ylim=(0, 3.6), yticks=range(4), xlim=(0, seen[-1][0]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
