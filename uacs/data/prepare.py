"""From what a user has to a prepared dataset: samples read and checked, features joined or computed, parts written.

SOURCE is a folder with a label.csv, a table (CSV or Parquet), a pickle of MMSA's or a folder of clips, and is read
once, part by part. Features come from where they are named, else from the source, else from the clips by the
extractors that are named. A clip that does not decode costs its features and nothing else: the sample stays, and a
note says so.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from uacs import datasets
from uacs.data import places
from uacs.data.clip_folder import ClipFolder, has_clips
from uacs.data.clips import ClipPool, ClipSettings
from uacs.data.extract import BASIC, absolute_spec, extractor
from uacs.data.features import read_features
from uacs.data.mmsa import MmsaPickle
from uacs.data.places import Place
from uacs.data.prepared import MODALITIES, DatasetInfo, PreparedDataset
from uacs.data.source import Source
from uacs.data.speech import Recogniser
from uacs.data.tables import Table
from uacs.data.writer import PartWriter
from uacs.errors import BadInput, Refused, WrongUse

Progress = Callable[[int, int | None], None]
"""Told how many samples are done, and of how many where the source can say."""

SCRATCH = ".uacs-prepared"
"""Under a model's or a run's folder: what was prepared on the way. Nobody else's folder has this name."""

PICKLES = (".pkl", ".pickle")


class PrepareSettings(BaseModel):
    """What `uacs prepare` may be told."""

    model_config = ConfigDict(extra="forbid")

    dataset: str | None = Field(None, min_length=1, description="its name; default: as the source's path has it")
    like: str | None = Field(None, description="for a name of your own: the dataset whose rules hold")
    clips: Path | None = None
    audio: Path | None = None
    vision: Path | None = None
    columns: dict[str, str] = Field({}, description="our name of a column to the table's")
    extractor: str | None = Field(None, description="what made the source's features")
    extract: dict[str, str] = Field({}, description="by modality the extractor of what clips are to give; basic")
    processes: int = Field(2, ge=1, description="processes that decode clips")
    decoding: ClipSettings = ClipSettings()


def prepare(
    source: Place, out: Path, settings: PrepareSettings, progress: Progress | None = None, later: bool = False
) -> PreparedDataset:
    """Write the prepared form of `source`, a path or URI, to the new folder `out`.

    With `later` clips are not looked at: whoever reads the dataset does.
    """
    if (out / "dataset.json").exists():
        raise Refused(f"{out}: a prepared dataset lies there; name another folder or remove it")
    name, like = dataset_of(source, settings)
    kind = datasets.kind(like)
    samples = open_source(source, name, like, settings)
    files = {m: read_features(path, m) for m in MODALITIES if (path := getattr(settings, m))}
    computed = {m: spec for m, spec in _extractors(settings).items() if m not in files and m not in samples.provides}
    if not later and (unused := sorted(settings.extract.keys() - computed.keys())):
        where = "--audio and --vision, or the source, bring it"
        raise WrongUse(f"--extract {unused[0]}={settings.extract[unused[0]]}: {where}; leave it away")
    pool = ClipPool(settings.decoding.limits, settings.processes, set(computed.values()), settings.decoding.cache)
    speech = settings.decoding.speech
    recogniser = Recogniser(speech, kind.language) if speech and not later else None
    with PartWriter(out, files, computed, pool, later, recogniser) as writer, pool:
        for sample in samples:
            if writer.add(sample) and progress:
                progress(writer.written, samples.count)
        writer.finish()
        if progress:
            progress(writer.written, writer.written)
        info = DatasetInfo(
            name=name,
            like=like,
            score_range=kind.score_range,
            language=kind.language,
            features=samples.features | writer.features(),
            parts=writer.parts,
            notes=[*_doubts(writer.largest_label, name, kind), *samples.notes, *writer.notes],
            later=writer.made if later else {},
        )
        writer.describe(info.model_dump_json(indent=1))
    return PreparedDataset(out)


def is_prepared(place: Place) -> bool:
    """Whether a prepared dataset lies there."""
    return places.is_file(places.within(place, "dataset.json"))


def open_dataset(
    place: Place,
    out: Place,
    settings: PrepareSettings | None = None,
    progress: Progress | None = None,
    later: bool = False,
) -> PreparedDataset:
    """A prepared folder as it is; anything else that `prepare` takes is first prepared into a folder under `out`.

    What an earlier call prepared there is made anew, since the raw files may have changed. With `later` clips are
    not looked at: whoever reads the dataset does.
    """
    if is_prepared(place):
        dataset = PreparedDataset(place)
        if dataset.info.later and not later:
            made = " and ".join(dataset.info.later)
            raise BadInput(f"{place}: a run's own, without {made} of its clips; `uacs prepare` the clips themselves")
        return dataset
    if places.is_uri(out):
        raise Refused(f"{place}: not prepared, and {out} is no place to prepare it in; `uacs prepare` it first")
    out, settings = Path(out), settings or PrepareSettings()
    name, like = dataset_of(place, settings)
    open_source(place, name, like, settings)  # what cannot be read is refused before anything is removed
    scratch = out / SCRATCH
    if scratch.exists():
        shutil.rmtree(scratch)
    return prepare(place, scratch, settings.model_copy(update={"dataset": name, "like": like}), progress, later)


def open_source(place: Place, name: str, like: str, settings: PrepareSettings) -> Source:
    """The reader of what lies there, a dataset of that name in `like`'s range; raises `BadInput` with what would do."""
    place, score_range = located(place), datasets.kind(like).score_range
    if settings.clips and not settings.clips.is_dir():
        raise BadInput(f"{settings.clips}: no such folder; --clips names the one that holds VIDEO_ID/CLIP_ID.mp4")
    if places.is_folder(place) and not _of_parquet(place):
        return _clip_folder(place, settings)
    if not places.ends(place, *PICKLES):
        return Table(place, score_range, settings.clips, settings.columns, settings.extractor)
    if places.is_uri(place):
        raise BadInput(f"{place}: a pickle is read from a disk; copy it here first")
    if settings.columns:
        raise WrongUse("--column is for tables; a pickle of MMSA's has its own names")
    return MmsaPickle(Path(place), name, score_range, settings.clips, settings.extractor)


def located(place: Place) -> Place:
    """The file, or the folder of Parquet files, that is meant: of a folder with a label.csv, that."""
    if places.is_file(place):
        return place
    if not places.is_folder(place):
        raise BadInput(f"{place}: nothing there; name a prepared dataset, a label.csv or its folder, a table, a pickle")
    inside = places.within(place, "label.csv")
    if places.is_file(inside):
        return inside
    if _of_parquet(place):
        return place
    if has_clips(place):
        return place
    pickles = sorted(name for suffix in PICKLES for name in places.files_under(place, suffix))
    instead = f"; of its pickles name one, as {places.within(place, pickles[0])}" if pickles else ""
    raise BadInput(
        f"{place}: neither dataset.json (a prepared dataset) nor label.csv (a raw one) nor Parquet nor clips lie "
        f"there{instead}"
    )


def _of_parquet(place: Place) -> bool:
    return any(name.endswith(".parquet") for name in places.names_in(place))


def _clip_folder(place: Place, settings: PrepareSettings) -> ClipFolder:
    for option in ("clips", "columns", "extractor"):
        if getattr(settings, option):
            named = {"columns": "--column"}.get(option, f"--{option}")
            raise WrongUse(f"{named}: for tables; {place} is a folder of clips")
    return ClipFolder(place)


def recognised(place: Place) -> str | None:
    """The dataset that a path names, by file, folder or the folder above; None if it names none that U-ACS knows.

    >>> recognised("/data/CH-SIMS/Processed/unaligned_39.pkl"), recognised("clips/label.csv")
    ('sims', None)
    """
    whole = str(place) if places.is_uri(place) else str(Path(place).absolute())
    for part in re.split(r"[/\\]", whole.lower())[:-4:-1]:
        squeezed = re.sub(r"sims[-_ ]?v2s?(?![a-z0-9])", "simsv2", part)
        for name in sorted(datasets.DATASETS, key=len, reverse=True):
            if re.search(rf"(?<![a-z]){name}(?![a-z0-9])", squeezed):
                return name
    return None


def dataset_of(source: Place, settings: PrepareSettings) -> tuple[str, str]:
    """The dataset's name, and the one whose rules hold; raises `WrongUse` where neither path nor settings say."""
    located(source)
    name = settings.dataset or recognised(source)
    known = ", ".join(datasets.DATASETS)
    if name is None:
        raise WrongUse(
            f"{source}: which dataset is it? Prepare it with --dataset {known}, or with a name of your own and --like"
        )
    if name not in datasets.DATASETS and settings.like is None:
        raise WrongUse(f"--dataset {name}: a name of your own needs --like, the dataset whose rules hold: {known}")
    like = settings.like or name
    datasets.kind(like)
    if name in datasets.DATASETS and like != name:
        raise WrongUse(f"--dataset {name} --like {like}: {name} has rules of its own; give your data another name")
    return name, like


def _extractors(settings: PrepareSettings) -> dict[str, str]:
    """By modality the extractor that is to be used; raises where there is none, or it makes nothing of the kind."""
    for modality, spec in settings.extract.items():
        if modality not in (sizes := extractor(spec).sizes):
            raise WrongUse(f"--extract {modality}={spec}: it makes {' and '.join(sizes)}; give it that")
    return dict.fromkeys(MODALITIES, BASIC) | {m: absolute_spec(spec) for m, spec in settings.extract.items()}


def _doubts(largest: float, name: str, kind: datasets.DatasetKind) -> list[str]:
    """A range that the labels do not need is the sign of another dataset's rules."""
    if kind.score_range[1] > 1 and 0 < largest <= 1:
        return [f"every label lies within [-1, 1], and {name}'s range is [-3, 3]: is --dataset right?"]
    return []
