"""From what a user has to a prepared dataset: labels checked, features joined or computed, parts written.

Features come from files where they are named, else from the clips by the built-in extractor. A clip
that does not decode costs its features and nothing else: the sample stays, and a note says so.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from uacs.data import datasets
from uacs.data.extract import BASIC, EXTRACTORS
from uacs.data.features import FeatureFile, read_features
from uacs.data.labels import read_labels
from uacs.data.media import decode
from uacs.data.prepared import MODALITIES, PART_ROWS, SPLITS, DatasetInfo, FeatureInfo, PreparedDataset, write_part
from uacs.errors import BadInput, Refused
from uacs.records import Sample

Progress = Callable[[int, int], None]

SCRATCH = ".uacs-prepared"
"""Under a model's or a run's folder: what was prepared on the way. Nobody else's folder has this name."""


class PrepareSettings(BaseModel):
    """What `uacs prepare` may be told."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = Field("mosi", min_length=1, description="mosi, mosei, sims, or a name of your own in [-3, 3]")
    clips: Path | None = None
    audio: Path | None = None
    vision: Path | None = None
    processes: int = Field(2, ge=1, description="processes that decode clips")


def prepare(source: Path, out: Path, settings: PrepareSettings, progress: Progress | None = None) -> PreparedDataset:
    """Write the prepared form of a label.csv, or of the folder that holds one, to the new folder `out`."""
    if (out / "dataset.json").exists():
        raise Refused(f"{out}: a prepared dataset lies there; name another folder or remove it")
    labels = source / "label.csv" if source.is_dir() else source
    kind = datasets.kind(settings.dataset)
    samples = read_labels(labels, kind.score_range, _clips(labels, settings))
    files = {m: read_features(path, m) for m in MODALITIES if (path := getattr(settings, m))}
    notes = [note for m, file in files.items() if (note := _join_note(m, file, samples))]

    out.mkdir(parents=True, exist_ok=True)
    computed = [m for m in MODALITIES if m not in files] if any(s.clip for s in samples) else []
    parts, done = {}, 0
    with _complete(samples, files, computed, settings.processes) as complete:
        for name, rows in _parts(samples):
            rows, problems = complete(rows)
            parts[name] = write_part(out, name, rows)
            notes += problems
            done += len(rows)
            if progress:
                progress(done, len(samples))
    features = {m: FeatureInfo(size=f.size, extractor=f.extractor) for m, f in files.items()}
    features |= {m: FeatureInfo(size=EXTRACTORS[BASIC].sizes[m], extractor=BASIC) for m in computed}
    info = DatasetInfo(
        name=settings.dataset,
        score_range=kind.score_range,
        language=kind.language,
        features=features,
        parts=parts,
        notes=notes,
    )
    (out / "dataset.json").write_text(info.model_dump_json(indent=1) + "\n")
    return PreparedDataset(out)


def open_dataset(path: Path, out: Path, dataset: str, progress: Progress | None = None) -> PreparedDataset:
    """A prepared folder as it is; a raw layout is first prepared, as the named `dataset`, into a folder under `out`.

    What an earlier call prepared there is made anew, since the raw files may have changed.
    """
    if (path / "dataset.json").exists():
        return PreparedDataset(path)
    scratch = out / SCRATCH
    if path.is_dir() and not (path / "label.csv").exists():
        raise BadInput(f"{path}: neither dataset.json (a prepared dataset) nor label.csv (a raw one) lies there")
    if not path.exists():
        raise BadInput(f"{path}: nothing there; name a prepared dataset, a label.csv or the folder that holds one")
    if scratch.exists():
        shutil.rmtree(scratch)
    return prepare(path, scratch, PrepareSettings(dataset=dataset), progress)


def _clips(labels: Path, settings: PrepareSettings) -> Path | None:
    if settings.clips and not settings.clips.is_dir():
        raise BadInput(f"{settings.clips}: no such folder; --clips names the one that holds VIDEO_ID/CLIP_ID.mp4")
    raw = labels.parent / "Raw"
    return settings.clips or (raw if raw.is_dir() else None)


def _parts(samples: list[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    """Samples cut by split and position, in the order of the file."""
    for split in SPLITS:
        rows = [s for s in samples if s.split == split]
        for n, start in enumerate(range(0, len(rows), PART_ROWS)):
            yield f"{split}-{n:05d}.parquet", rows[start : start + PART_ROWS]


@contextmanager
def _complete(samples: list[Sample], files: dict[str, FeatureFile], computed: list[str], processes: int):
    """A function that gives a part's samples their features, and notes on what did not work."""
    if not computed:
        yield lambda rows: _checked([_joined(s, files) for s in rows], [])
        return
    with ProcessPoolExecutor(min(processes, len(samples)), mp_context=get_context("spawn")) as pool:

        def complete(rows: list[Sample]) -> tuple[list[Sample], list[str]]:
            results = list(pool.map(partial(_extracted, modalities=computed), rows, chunksize=8))
            return _checked([_joined(s, files) for s, _ in results], [note for _, note in results if note])

        yield complete


def _extracted(sample: Sample, modalities: list[str]) -> tuple[Sample, str | None]:
    if sample.clip is None:
        return sample, None
    try:
        audio, vision = EXTRACTORS[BASIC].extract(decode(sample.clip))
    except BadInput as error:
        return sample, f"sample '{sample.sample_id}': {error}; kept without audio and vision"
    return replace(
        sample,
        audio=audio if "audio" in modalities else sample.audio,
        vision=vision if "vision" in modalities else sample.vision,
    ), None


def _joined(sample: Sample, files: dict[str, FeatureFile]) -> Sample:
    def found(modality: str):
        file = files.get(modality)
        return file.by_id.get(sample.sample_id) if file else getattr(sample, modality)

    return replace(sample, audio=found("audio"), vision=found("vision"))


def _checked(samples: list[Sample], notes: list[str]) -> tuple[list[Sample], list[str]]:
    for s in samples:
        if s.text is None and s.audio is None and s.vision is None and s.clip is None:
            raise BadInput(f"sample '{s.sample_id}': no text, features or clip; give it one or remove its row")
    return samples, notes


def _join_note(modality: str, file: FeatureFile, samples: list[Sample]) -> str | None:
    without = sum(s.sample_id not in file.by_id for s in samples)
    if without == len(samples):
        example = next(iter(file.by_id), "nothing")
        raise BadInput(f"{file.path}: no id matches; it has '{example}', the labels have '{samples[0].sample_id}'")
    return f"{without} of {len(samples)} samples have no {modality} in {file.path}" if without else None
