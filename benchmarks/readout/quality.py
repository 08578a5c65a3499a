"""What the read-outs are worth: the large model alone and the cascade by each, on the corpora of finished demos.

    make demo OUT=/tmp/demo
    python -m benchmarks.readout.quality /tmp/demo

In one process, without Ray, on one thread: both models answer the splits valid and test, the second look wherever they
conflict; thresholds by Eq. 19, λ 0.5. Read-outs take turns, chunk by chunk, so that the machine's moods are shared;
milliseconds are those of decoding clips, reading and answering in stage 2, the median chunk's. AUROC: how well u
tells answers of wrong polarity from others. `head, joint` is another model: trained for its head too. In brackets 95 %
intervals of 2000 resamples, of the difference to decode where there is one. Prints Markdown.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from scipy.stats import mannwhitneyu

from uacs import mllm
from uacs.cascade import outcomes
from uacs.cascade.thresholds import of_table
from uacs.data.prepared import PreparedDataset
from uacs.demo import MLLM, train_large
from uacs.metrics import bootstrap, per_sample
from uacs.mllm import MllmSettings
from uacs.mllm.chunk import Chunk, answer_chunk
from uacs.mllm.training import TrainingSettings
from uacs.ubm.predictor import SmallPredictor

CHUNK, RESAMPLES = 32, 2000
COLUMNS = ("read-out", "Acc2", "MAE", "AUROC of u", "ms, stage 2", "asked", "cascade's Acc2", "cascade's MAE")


def main() -> None:
    """Measure each demo and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="+", help="folders of `uacs demo`")
    parser.add_argument("--joint", action="store_true", help="train a model for its head, too, where there is none yet")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for demo in options.demo:
        made = json.loads((demo / "demo.json").read_text())
        print(f"\n{made.get('model', 'qwen2_5_omni')}, seed {made['seed']}\n")
        print(table(demo, made, options.joint), flush=True)


def table(demo: Path, made: dict, joint: bool) -> str:
    """One demo's table."""
    data = PreparedDataset(demo / "data")
    folders = {"decode": "mllm", "trie": "mllm", "head": "mllm"}
    if joint:
        folders["head, joint"] = "mllm-joint"
        if not (demo / "mllm-joint" / "config.json").exists():
            settings = TrainingSettings(seed=made["seed"], frames=MLLM["frames"], head="joint")
            train_large(demo / "mllm-joint", data, made.get("model", "qwen2_5_omni"), settings)
    models = {
        name: mllm.build(
            str(demo / folder), MllmSettings(readout=name.split(",")[0], frames=MLLM["frames"]), data.info.score_range
        )
        for name, folder in folders.items()
    }
    small = SmallPredictor(demo / "ubm", threads=1)
    valid, _ = answered(data, "valid", small, models)
    tests, seconds = answered(data, "test", small, models)
    decided = {}
    for name, found in tests.items():
        made_of = of_table(valid[name], 0.5)
        decided[name] = outcomes.with_decision(found, made_of.tau_small, made_of.tau_large)
    rows = [row(name, decided, data.info.like, seconds) for name in models]
    head = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
    return head + "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def answered(data: PreparedDataset, split: str, small, models: dict) -> tuple[dict[str, pa.Table], dict[str, float]]:
    """Outcomes of a split by read-out, nothing decided, and the median chunk's milliseconds a sample in stage 2."""
    samples = list(data.samples(split))
    said = small.predict(samples)
    parts, seconds = {name: [] for name in models}, {name: [] for name in models}
    for start in range(0, len(samples), CHUNK):
        some, theirs = samples[start : start + CHUNK], said[start : start + CHUNK]
        turn = start // CHUNK % len(models)  # nobody always decodes a clip first
        for name, model in [*models.items()][turn:] + [*models.items()][:turn]:
            answer = answer_chunk(model, Chunk(some, theirs, float("nan"), "conflict"))
            seconds[name].append(1000 * float(np.mean([output.seconds for output in answer.large])))
            parts[name].append(outcomes.build(some, theirs, answer.large, answer.verify))
    tables = {name: pa.concat_tables(found) for name, found in parts.items()}
    return tables, {name: float(np.median(times)) for name, times in seconds.items()}


def row(name: str, decided: dict[str, pa.Table], like: str, seconds: dict[str, float]) -> list[str]:
    """A read-out's figures as cells."""
    ours, base = decided[name], decided["decode"]

    def measured(answers: str, metric: str, scale: float) -> str:
        values = [
            scale * per_sample(outcomes.column(of, answers), outcomes.column(of, "label"), like)[metric]
            for of in (ours, base)
        ]
        digits = 1 if scale > 1 else 3
        told = f"{np.nanmean(values[0]):.{digits}f}"
        if ours is base:
            low, high = bootstrap(values[0], RESAMPLES)
            return f"{told} [{low:.{digits}f}, {high:.{digits}f}]"
        low, high = bootstrap(values[0] - values[1], RESAMPLES)
        return f"{told} ({np.nanmean(values[0] - values[1]):+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}])"

    asked = np.mean([stage != "small" for stage in ours["stage"].to_pylist()])
    return [
        name,
        measured("y_large", "acc2", 100),
        measured("y_large", "mae", 1),
        ranked(ours, base, like),
        f"{seconds[name]:.1f} ({seconds[name] / seconds['decode']:.2f}x)",
        f"{asked:.0%}",
        measured("prediction", "acc2", 100),
        measured("prediction", "mae", 1),
    ]


def ranked(ours: pa.Table, base: pa.Table, like: str) -> str:
    """AUROC of the large model's uncertainty against wrong polarity, and its difference to decode's, resampled."""
    draw, size = np.random.default_rng(0), ours.num_rows
    picks = [np.arange(size), *(draw.integers(0, size, size) for _ in range(RESAMPLES))]
    areas = np.array([[auroc(*told(of, like), pick) for of in (ours, base)] for pick in picks])
    if ours is base:
        low, high = np.nanquantile(areas[1:, 0], [0.025, 0.975])
        return f"{areas[0, 0]:.3f} [{low:.3f}, {high:.3f}]"
    differences = areas[:, 0] - areas[:, 1]
    low, high = np.nanquantile(differences[1:], [0.025, 0.975])
    return f"{areas[0, 0]:.3f} ({differences[0]:+.3f} [{low:+.3f}, {high:+.3f}])"


def told(of: pa.Table, like: str) -> tuple[np.ndarray, np.ndarray]:
    """Uncertainties, and 1 where the polarity is right, 0 where it is wrong, NaN where there is none to be right."""
    return outcomes.column(of, "u_large"), per_sample(
        outcomes.column(of, "y_large"), outcomes.column(of, "label"), like
    )["acc2"]


def auroc(u: np.ndarray, right: np.ndarray, pick: np.ndarray) -> float:
    """The chance that a wrong answer is less sure than a right one."""
    u, right = u[pick], right[pick]
    wrong, others = u[right == 0], u[right == 1]
    if not len(wrong) or not len(others):
        return float("nan")
    return mannwhitneyu(wrong, others).statistic / (len(wrong) * len(others))


if __name__ == "__main__":
    main()
