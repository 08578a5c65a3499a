"""The whole story, from nothing: a corpus, two models trained on it, their cascade, and what it saves.

    corpus/       clips, transcripts and label.csv, generated
    data/         the same, prepared
    ubm/  mllm/   the small model, and a tiny large one (Qwen2.5-Omni, HumanOmni, VideoLLaMA2) trained from scratch
    calibration/  evaluation/  baseline/      runs: thresholds, the cascade, the large model on every sample

A step whose result is there is not done again, so an interrupted demo goes on where it stopped.
"""

import json
import shutil
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import yaml

from uacs.cluster import evaluation
from uacs.cluster.evaluation import Models
from uacs.cluster.session import ray_session
from uacs.config import EvaluationSettings
from uacs.console import cascade, counter, print_epoch
from uacs.data import corpus
from uacs.data.prepare import PrepareSettings, prepare
from uacs.data.prepared import PreparedDataset
from uacs.errors import Refused
from uacs.mllm import prompts
from uacs.mllm import training as mllm_training
from uacs.report.text import metrics_text
from uacs.ubm import tiny_bert
from uacs.ubm import training as ubm_training
from uacs.ubm.settings import TrainingSettings

UBM = dict(
    lr_text=5e-4,
    lr_audio=1e-3,
    lr_vision=1e-3,
    lr_other=1e-3,
    decay_text=0.0,
    decay_audio=0.0,
    decay_vision=0.0,
    decay_other=0.0,
    batch_size=32,
    accumulate=1,
    patience=4,
    max_epochs=16,
    threads=1,
)
"""For a small encoder from scratch; Table I's rates are for a pretrained one. A second thread hardly helps so small a
model, and costs much where the machine is busy, since torch's threads wait for each other by spinning."""

MLLM = dict(frames=2, batch_size=32)

TINY = {
    "qwen2_5_omni": "uacs.mllm.tiny_omni:create",
    "humanomni": "uacs.mllm.tiny_native:create_humanomni",
    "videollama2": "uacs.mllm.tiny_native:create_videollama2",
}
"""What makes an untrained large model, by `--model`. Strings, so that naming them loads none."""

LAMBDA = 0.5
LIKE = {"en": "mosei", "zh": "sims"}
"""The dataset whose rules the corpus of a language follows."""


def run(
    out: Path,
    seed: int = 0,
    sizes: dict[str, int] | None = None,
    language: str = "en",
    model: str = "qwen2_5_omni",
) -> dict:
    """Do all of it under `out` and print what came of it; returns the baseline's metrics.json.

    People speak English and are scored in [-3, 3] by MOSI's rules, or Chinese and in [-1, 1] by SIMS's. model is
    the large model's family, one of `TINY`.
    """
    started = time.perf_counter()
    wanted = {"seed": seed, "sizes": sizes or corpus.DEFAULT_SIZES, "language": language, "model": model}
    _begin(out, wanted)
    dataset = _data(out, seed, sizes or corpus.DEFAULT_SIZES, language)
    _small(out, dataset, seed)
    _large(out, dataset, seed, model)
    settings = EvaluationSettings(mllm=MLLM)
    models = {split: Models(dataset, split, out / "ubm", str(out / "mllm")) for split in ("valid", "test")}
    with ray_session():
        with cascade("calibrate") as progress:
            thresholds = evaluation.calibrate(models["valid"], out / "calibration", settings, LAMBDA, progress=progress)
        with cascade("evaluate: the cascade") as progress:
            ours = evaluation.evaluate(models["test"], thresholds, out / "evaluation", settings, progress=progress)
        with cascade("evaluate: the large model on every sample") as progress:
            baseline = evaluation.evaluate(
                models["test"], thresholds, out / "baseline", settings, all_stages=True, progress=progress
            )
    print("\n" + metrics_text(baseline))
    print(
        f"\nwall clock on the test split: {ours['seconds']['wall']:.1f} s for the cascade, "
        f"{baseline['seconds']['wall']:.1f} s for asking the large model about everything"
        f"\n{time.perf_counter() - started:.0f} s in all"
        f"\nreports: {out / 'evaluation' / 'report.html'}, {out / 'baseline' / 'report.html'}"
        f"\nask it yourself: uacs serve --config {_endpoint(out)}"
        f"\nevery table of the paper: uacs study {out / 'data'} --config {_study(out)} --out {out.with_name('study')}"
    )
    return baseline


def _endpoint(out: Path) -> Path:
    """The settings of an endpoint that answers as the demo does."""
    named = {"ubm": out / "ubm", "mllm": out / "mllm", "thresholds": out / "evaluation" / "thresholds.json"}
    settings = {name: str(path.absolute()) for name, path in named.items()} | {"settings": MLLM}
    file = out / "serve.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def _study(out: Path) -> Path:
    """The settings of a study of the demo's models and data, with three seeds of the small model."""
    settings = {
        "large": {"tiny": {"model": str((out / "mllm").absolute()), "settings": MLLM}},
        "lambda": LAMBDA,
        "ubm": {"text_encoder": str((out / "encoder").absolute()), "settings": UBM},
    }
    file = out / "study.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def _begin(out: Path, wanted: dict) -> None:
    path = out / "demo.json"
    if path.exists():
        if {"model": "qwen2_5_omni"} | json.loads(path.read_text()) != wanted:  # the first demos had one model
            raise Refused(f"{out}: a demo with another seed, language or model lies there; name another --out")
        return
    if out.exists() and any(out.iterdir()):
        raise Refused(f"{out}: not empty and not a demo; name another --out")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted))


def _data(out: Path, seed: int, sizes: dict[str, int], language: str) -> PreparedDataset:
    def generate(folder: Path) -> None:
        with counter("generate clips") as progress:
            corpus.generate(folder, seed, sizes, progress=progress, language=language)

    def prepared(folder: Path) -> None:
        with counter("prepare: decode, compute features") as progress:
            prepare(out / "corpus", folder, PrepareSettings(dataset="demo", like=LIKE[language]), progress)

    _once(out / "corpus", "label.csv", generate)
    _once(out / "data", "dataset.json", prepared)
    return PreparedDataset(out / "data")


def _small(out: Path, dataset: PreparedDataset, seed: int) -> None:
    if (out / "ubm" / "config.json").exists():
        return
    encoder = out / "encoder"
    tiny_bert.create(encoder, (s.text for s in dataset.samples("train") if s.text), seed)
    print("train the small model")
    ubm_training.train(dataset, str(encoder), TrainingSettings(**UBM, seed=seed), out / "ubm", print_epoch)


def _large(out: Path, dataset: PreparedDataset, seed: int, model: str) -> None:
    def learn(folder: Path) -> None:
        with counter("train the large model") as progress:
            train_large(
                folder, dataset, model, mllm_training.TrainingSettings(seed=seed, frames=MLLM["frames"]), progress
            )

    _once(out / "mllm", "config.json", learn)


def train_large(
    folder: Path,
    dataset: PreparedDataset,
    model: str,
    settings: mllm_training.TrainingSettings,
    progress: mllm_training.Progress | None = None,
) -> None:
    """A tiny large model of a family of `TINY`, trained from nothing on a dataset's split train, as `folder`."""
    info, samples = dataset.info, list(dataset.samples("train"))
    phrases = prompts.phrases(info.score_range, info.language, settings.hints)
    module, _, create = TINY[model].partition(":")
    tiny = import_module(module)
    start = folder.with_name("untrained")
    getattr(tiny, create)(start, (s.text for s in samples if s.text), phrases, tiny.TinySettings(seed=settings.seed))
    mllm_training.train(start, samples, folder, settings, info.score_range, info.language, progress)
    shutil.rmtree(start)


def _once(folder: Path, last: str, make: Callable[[Path], None]) -> None:
    """Make a folder unless the file that is written last lies there; what was left half done is made anew."""
    if not (folder / last).exists():
        shutil.rmtree(folder, ignore_errors=True)
        make(folder)
