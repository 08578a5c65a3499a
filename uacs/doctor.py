"""What `uacs doctor` looks at: the machine, Ray, a dataset and two models, each tried rather than assumed."""

import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np

from uacs import mllm
from uacs.config import EvaluationSettings
from uacs.data import places
from uacs.data.corpus import clips
from uacs.data.prepare import PrepareSettings, dataset_of, is_prepared, open_source
from uacs.data.prepared import SPLITS, PreparedDataset
from uacs.errors import UacsError
from uacs.mllm import adapters
from uacs.records import ANSWERED, Sample
from uacs.ubm.settings import load_config

GIB = 2**30
SPARE_DISK, SPARE_MEMORY, SPARE_SHARED = 5 * GIB, 4 * GIB, GIB
MOST_THREADS = 2  # a CPU; the two models seldom work at once
TRIED = 8  # samples that each model is asked about
SAMPLE = Sample("doctor", text="well, I really liked it")


@dataclass(frozen=True)
class Finding:
    """One line: `ok`, `warn` (it works, but) or `fail` (it does not), and what was found, with the mend."""

    verdict: str
    what: str


def examine(
    settings: EvaluationSettings,
    data: str | None,
    ubm: Path | None,
    spec: str | None,
    raw: PrepareSettings | None = None,
) -> Iterator[Finding]:
    """Every finding as soon as it is made; what fails does not keep the rest from being looked at.

    `raw` says of data that is not prepared what `uacs prepare` would be told.
    """
    yield from _guarded("machine", _machine)
    yield from _guarded("ray", _ray, settings)
    prepared = data is not None and is_prepared(data)
    if prepared:
        yield from _guarded("data", _prepared, data)
    elif data:
        yield from _guarded("data", _raw, data, raw or PrepareSettings())
    if ubm:
        yield from _guarded("ubm", _ubm, ubm, data if prepared else None)
    if spec:
        yield from _guarded("mllm", _mllm, spec, settings, data if prepared else None)


def _guarded(name: str, check, *arguments) -> Iterator[Finding]:
    try:
        for finding in check(*arguments):
            yield Finding(finding.verdict, f"{name}: {finding.what}")
    except UacsError as error:
        yield Finding("fail", f"{name}: {error}")
    except Exception as error:  # a doctor that falls over tells nothing of the patient
        yield Finding("fail", f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _machine() -> Iterator[Finding]:
    import torch

    named = ", ".join(f"{name} {version(name)}" for name in ("uacs", "ray", "torch", "transformers", "numpy"))
    yield Finding("ok", f"Python {platform.python_version()}, {named}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("ok", f"{_cpus()} CPUs; GPUs: {', '.join(gpus) or 'none, models run on CPU'}")
    yield _spare(
        "free disk for temporary files", shutil.disk_usage(tempfile.gettempdir()).free, SPARE_DISK, "set TMPDIR"
    )
    if os.path.isdir("/dev/shm"):  # on Linux, where Ray keeps its objects
        free = shutil.disk_usage("/dev/shm").free
        yield _spare("shared memory", free, SPARE_SHARED, "Ray falls back to slow files; docker run --shm-size=4g")


def _spare(what: str, free: float, wanted: float, mend: str) -> Finding:
    if free >= wanted:
        return Finding("ok", f"{free / GIB:.1f} GiB of {what}")
    return Finding("warn", f"{free / GIB:.1f} GiB of {what}, below {wanted / GIB:g}: {mend}")


def _ray(settings: EvaluationSettings) -> Iterator[Finding]:
    from uacs.cluster.resources import nodes_of_ray, preflight, size_text
    from uacs.cluster.session import ray_session, start_serve

    address = os.environ.get("RAY_ADDRESS")
    started = time.perf_counter()
    with ray_session() as ours:
        import ray

        start_serve()
        resources = ray.cluster_resources()
        where = "one of our own on 127.0.0.1" if ours else f"the cluster at {address or 'hand'}"
        have = f"{resources.get('CPU', 0):g} logical CPUs, {resources.get('GPU', 0):g} GPUs"
        yield Finding("ok", f"{where} with Serve is up after {time.perf_counter() - started:.1f} s: {have}")
        memory = resources.get("memory", 0)  # Ray knows of a container's limits
        yield _spare("memory for actors", memory, SPARE_MEMORY, "a 7B model in bfloat16 takes 16 GiB")
        preflight(settings.resources, nodes_of_ray(), settings.mllm.device)
        plan = settings.resources
        fits = f"{size_text(plan.pool)} actors of the UBM, {size_text(plan.replicas)} replicas of the large model"
        yield Finding("ok", f"the plan fits: {fits}")
        if not address:
            yield _cpu_budget(settings)


def _cpu_budget(settings: EvaluationSettings) -> Finding:
    """Logical CPUs are Ray's bookkeeping; torch's threads are real, and wait for each other by spinning."""
    plan = settings.resources
    small = 0 if plan.pool_gpus else plan.pool[1] * settings.threads
    large = 0 if plan.replica_gpus else plan.replicas[1] * settings.mllm.threads
    told = f"{small} torch threads of the UBM and {large} of the large model on {_cpus()} CPUs"
    if small + large > MOST_THREADS * _cpus():
        return Finding("warn", f"{told}: they will hold each other up; lower threads, mllm.threads or resources.pool")
    return Finding("ok", told)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepared(data: str) -> Iterator[Finding]:
    dataset = PreparedDataset(data)
    info = dataset.info
    rules = (
        f"rules of {info.like}, scores in [{info.score_range[0]:g}, {info.score_range[1]:g}], language {info.language}"
    )
    yield Finding("ok", f"{data} is {info.name} ({rules})")
    for split in SPLITS:
        parts = [name for name in info.parts if name.startswith(f"{split}-")]
        if not parts:
            yield Finding("warn", f"split {split} is empty")
            continue
        for part in parts:
            found = hashlib.sha256(places.read(places.within(dataset.folder, part))).hexdigest()
            if found != info.parts[part].sha256:
                yield Finding("fail", f"{part} is not the file that dataset.json describes; prepare the data again")
        yield _samples(split, dataset.samples(split))
    for note in info.notes[:TRIED]:
        yield Finding("warn", note)


def _samples(split: str, samples: Iterable[Sample]) -> Finding:
    has = dict.fromkeys(("label", "text", "audio", "vision", "clip"), 0)
    count, lost = 0, []
    for s in samples:
        count += 1
        for name in has:
            has[name] += getattr(s, name) is not None
        if s.clip and not places.is_uri(s.clip) and not os.path.isfile(s.clip):
            lost.append(s.sample_id)
    told = f"split {split}: {count} samples; " + ", ".join(f"{number} with {name}" for name, number in has.items())
    if lost:
        gone = f"{len(lost)} clips are gone, as that of '{lost[0]}'"
        return Finding("fail", f"{told}; {gone}; mend the path or prepare again")
    return Finding("ok", told)


def _raw(data: str, settings: PrepareSettings) -> Iterator[Finding]:
    name, like = dataset_of(data, settings)
    source = open_source(data, name, like, settings)
    samples = sum(1 for _ in source)
    yield Finding("ok", f"{data} is {name}, not prepared; all of its {samples} samples can be read")
    for note in source.notes[:TRIED]:
        yield Finding("warn", note)


def _ubm(ubm: Path, data: str | None) -> Iterator[Finding]:
    from uacs.cluster.evaluation import refuse_other_data
    from uacs.ubm.predictor import SmallPredictor

    config = load_config(ubm)
    features = ", ".join(f"{m} of {info.extractor} ({info.size})" for m, info in config.features.items()) or "none"
    yield Finding("ok", f"{ubm} was trained on {config.dataset} with {config.text_encoder}; features: {features}")
    if data:
        refuse_other_data(config, PreparedDataset(data), ubm)
    predictor, samples = SmallPredictor(ubm), _some(data)
    started = time.perf_counter()
    outputs = predictor.predict(samples)
    seconds = (time.perf_counter() - started) / len(samples)
    if errors := [output.error for output in outputs if output.error]:
        yield Finding("fail", errors[0])
    if known := [output.u for output in outputs if not output.error]:
        said = f"mean u {np.mean(known):.2f} by {predictor.estimator}"
        yield Finding("ok", f"it answers {len(known)} samples, {1000 * seconds:.1f} ms each, {said}")


def _mllm(spec: str, settings: EvaluationSettings, data: str | None) -> Iterator[Finding]:
    mllm.check(spec)
    info = PreparedDataset(data).info if data else None
    about = adapters.manifest(spec) if info is None and adapters.is_adapter(spec) else info
    score_range, language = (about.score_range, about.language) if about else ((-3.0, 3.0), "en")
    started = time.perf_counter()
    model = mllm.build(spec, settings.mllm, score_range, language, info.name if info else None)
    yield Finding("ok", f"{spec} is loaded in {time.perf_counter() - started:.1f} s, read-out {model.readout}")
    if spec.startswith(mllm.RECORDED):
        if data:
            yield from _recorded(model, PreparedDataset(data))
        return
    from uacs.mllm.described import describe
    from uacs.mllm.predictor import LargePredictor

    assert isinstance(model, LargePredictor)  # what is not recorded is asked by it
    for line in describe(model):
        yield Finding("ok", line)
    with tempfile.TemporaryDirectory() as folder:
        samples = _some(data) if data else [replace(SAMPLE, clip=_clip(Path(folder)))]
        outputs = model.answer(samples)
    answered = [output for output in outputs if output.status in ANSWERED]
    if answered:
        each = np.mean([output.seconds for output in answered])
        first = f"{answered[0].y:+.1f} with {answered[0].u:.2f} nats"
        yield Finding("ok", f"it answers {len(answered)} of {len(samples)} samples, {each:.2f} s each, first {first}")
    for sample, output in zip(samples, outputs, strict=True):
        if output.status not in ANSWERED:
            # a model that answers none of what it is shown cannot be asked
            yield Finding(
                "warn" if answered else "fail", f"sample '{sample.sample_id}': {output.status}: {output.error}"
            )


def _clip(folder: Path) -> str:
    """A second of somebody pleased, seen and heard."""
    rng = np.random.default_rng(0)
    speaker, frames = clips.draw_speaker(rng), clips.FRAME_RATE
    path = folder / "clip.mp4"
    clips.write_clip(path, clips.picture(2.0, 2.0, frames, speaker, rng), clips.sound(2.0, frames, speaker, rng))
    return str(path)


def _recorded(model: mllm.LargeModel, dataset: PreparedDataset) -> Iterator[Finding]:
    for split in ("valid", "test"):
        if any(name.startswith(f"{split}-") for name in dataset.info.parts):
            samples = list(dataset.samples(split))
            answered = sum(output.status in ANSWERED for output in model.answer(samples))
            verdict = "ok" if answered == len(samples) else "warn" if answered else "fail"
            yield Finding(verdict, f"it has answers for {answered} of {len(samples)} samples of split {split}")


def _some(data: str | None) -> list[Sample]:
    """A few samples of the data, of its last split that has any; without data a sentence."""
    if data:
        dataset = PreparedDataset(data)
        for split in reversed(SPLITS):
            if any(name.startswith(f"{split}-") for name in dataset.info.parts):
                return list(islice(dataset.samples(split), TRIED))
    return [SAMPLE]
