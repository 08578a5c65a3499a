"""A run's directory: manifest, outcome parts, and who may go on with it.

manifest.json          identity (what the outcomes depend on), settings, versions, sessions
outcomes/PART.parquet  one file a data part; its name is the proof that the part is done: the run's ledger
status.json            who runs it and how far it is (`cluster/status.py`)
metrics.json, report.html, thresholds.json
"""

import io
import json
import os
import platform
import uuid
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from uacs import fingerprints, mllm
from uacs.cascade import thresholds as eq19
from uacs.cascade.thresholds import Thresholds
from uacs.data import places
from uacs.data.places import Place
from uacs.data.prepare import SCRATCH
from uacs.errors import BadInput, Refused
from uacs.records import OUTCOME_SCHEMA

OUTCOMES = "outcomes"
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in which Ray tells a job's process of its job


class Run:
    """A run directory, a path or URI, opened for writing or reading."""

    def __init__(self, folder: Place, manifest: dict):
        self.folder, self.manifest = folder, manifest

    @classmethod
    def begin(cls, folder: Place, identity: dict, settings: dict) -> "Run":
        """A new run, or the one that lies there if its identity is this one; else `Refused`, with the difference.

        The id of a run that was submitted as a Ray job is the job's.
        """
        if not exists(folder):
            refuse_foreign(folder)
            versions = {name: version(name) for name in ("uacs", "ray", "torch", "transformers", "numpy")}
            manifest = {
                "format": 1,
                "run_id": submitted() or uuid.uuid4().hex[:12],
                "identity": identity,
                "settings": settings,
                "versions": versions | {"python": platform.python_version()},
                "sessions": [],
            }
            run = cls(folder, manifest)
            run._save()
        else:
            run = cls.open(folder)
            _refuse_other(folder, run.manifest["identity"], identity)
        return run

    @classmethod
    def open(cls, folder: Place) -> "Run":
        """The run that lies there; raises `BadInput` if none does."""
        try:
            return cls(folder, json.loads(places.read(places.within(folder, "manifest.json"))))
        except (OSError, json.JSONDecodeError):
            raise BadInput(f"{folder}: no manifest.json there, so no run; make one with `uacs evaluate`") from None

    @property
    def run_id(self) -> str:
        """The id that the run's Serve application carries."""
        return self.manifest["run_id"]

    def place(self, name: str) -> str:
        """Where a file of the run belongs."""
        return places.within(self.folder, name)

    def outcome(self, part: str) -> str:
        """Where the outcomes of a data part belong."""
        return self.place(f"{OUTCOMES}/{part}")

    def done(self) -> set[str]:
        """The parts whose outcomes are written."""
        return places.files_under(self.place(OUTCOMES), ".parquet")

    def table(self) -> pa.Table:
        """All outcomes so far, sorted by sample id."""
        if not (done := self.done()):
            raise BadInput(f"{self.folder}: no outcomes yet; run the command that began it again")
        table = self.rows(done, OUTCOME_SCHEMA.names).sort_by("sample_id")
        pa.default_memory_pool().release_unused()  # half of what it took by now, which it would keep
        return table

    def rows(self, parts: Iterable[str], columns: list[str]) -> pa.Table:
        """Columns of the outcomes of some parts, in the parts' order."""
        schema = pa.schema([OUTCOME_SCHEMA.field(name) for name in columns])
        filesystem, folder = places.resolve(self.place(OUTCOMES))
        files = [f"{folder}/{part}" for part in sorted(parts)]
        if not files:
            return schema.empty_table()
        try:
            return ds.dataset(files, schema, format="parquet", filesystem=filesystem).to_table()
        except (OSError, pa.ArrowInvalid) as error:
            mend = "remove that part and run the command that began it again"
            raise BadInput(f"{self.folder}: outcomes that cannot be read ({places.reason(error)}); {mend}") from None

    def thresholds(self, lambda_: float, beta: float) -> Thresholds:
        """Both thresholds by Eq. 18-19, from the outcomes of a run that asked both models about everything."""
        identity = self.manifest["identity"]
        try:
            thresholds = eq19.of_table(self.table(), lambda_, beta)
        except BadInput as error:
            raise BadInput(f"{self.folder}, split '{identity['split']}': {error}") from None
        return self.signed(thresholds)

    def signed(self, thresholds: Thresholds) -> Thresholds:
        """Thresholds made of this run, with the models and the split that they are good for."""
        identity = self.manifest["identity"]
        made_with = {name: identity[name] for name in ("estimator", "readout", "ubm", "mllm", "dataset", "split")}
        return thresholds.model_copy(update=made_with | {"fingerprint": asking(identity)})

    @property
    def like(self) -> str:
        """The dataset whose rules the run is scored by."""
        identity = self.manifest["identity"]
        return identity.get("like") or identity["dataset"]

    def metrics(self) -> dict:
        """metrics.json; raises `BadInput` if the run is not finished."""
        if (text := self.read("metrics.json")) is None:
            mend = "start it again to go on"
            raise BadInput(f"{self.folder}: no metrics.json: the run is not finished; {mend}")
        return json.loads(text)

    def read(self, name: str) -> str | None:
        """A text file of the run; None if it is not there."""
        try:
            return places.read(self.place(name)).decode()
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """Write a text file of the run whole or not at all."""
        places.write(self.place(name), (text.rstrip("\n") + "\n").encode())

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write a Parquet file of the run whole or not at all."""
        content = io.BytesIO()
        table.to_parquet(content)
        places.write(self.place(name), content.getvalue())

    def add_session(self, seconds: float, written: int) -> None:
        """Note how long a session took and how many samples' outcomes it wrote."""
        self.manifest["sessions"].append({"seconds": seconds, "written": written})
        self._save()

    def wall(self) -> float:
        """Wall seconds of all sessions; of one that was killed, until the last that was heard of it."""
        return sum(session["seconds"] for session in self.manifest["sessions"])

    def _save(self) -> None:
        self.write("manifest.json", json.dumps(self.manifest, indent=2))


def submitted() -> str | None:
    """The id under which this process was submitted as a Ray job; None if it was not."""
    return json.loads(os.environ.get(JOB_CONFIG, "{}")).get("metadata", {}).get("job_submission_id")


def exists(folder: Place) -> bool:
    """Whether a run lies there."""
    return places.is_file(places.within(folder, "manifest.json"))


def read_thresholds(place: Place) -> Thresholds:
    """thresholds.json, at a path or URI; raises `BadInput` that names the file and the field."""
    try:
        return Thresholds.read(places.read(place).decode(), place)
    except OSError as error:
        raise BadInput(
            f"{place}: no thresholds there ({places.reason(error)}); make some with `uacs calibrate`"
        ) from None


def refuse_other_models(thresholds: Thresholds, identity: dict) -> None:
    """Refuse thresholds that were made with other models, or with the large one asked otherwise, than a run has."""
    for what in ("estimator", "readout", "ubm", "mllm"):
        made, now = getattr(thresholds, what), identity[what]
        recorded = what == "mllm" and made and made.startswith(mllm.RECORDED) and now.startswith(mllm.RECORDED)
        if made and made != now and not recorded:  # recorded answers of another split are another file
            raise Refused(f"the thresholds were made with {what} {made}, this run has {now}; calibrate again")
    if thresholds.fingerprint and thresholds.fingerprint != asking(identity):
        asked = ", ".join(f"{key} {identity[key]}" for key in ASKING if key in identity)
        raise Refused(f"the thresholds were made with the large model asked otherwise, now {asked}; calibrate again")
    if thresholds.second_look and thresholds.second_look != second_look(identity):
        raise Refused(
            "the thresholds were chosen with another second look (hints, verify_prefill, verifier); tune again"
        )


ASKING = ("readout", "prompts", "frames", "max_new_tokens", "dtype")


def asking(identity: dict) -> str:
    """How the large model was asked and read, apart from which one it is."""
    return fingerprints.of_settings({key: identity.get(key) for key in ASKING})


def second_look(identity: dict) -> str:
    """How stage 3 was asked besides: Eq. 19's thresholds do not depend on it, those chosen by replay do."""
    asked = {key: identity.get(key) for key in ("hints", "verify_prefill", "verifier")}
    if asked["verifier"] and asked["verifier"]["readout"] == "recorded":
        asked["verifier"] = "recorded"  # of another split they are another file
    return fingerprints.of_settings(asked)


def refuse_foreign(folder: Place) -> None:
    """Refuse a folder that holds something else than a run."""
    if places.is_file(folder):
        raise Refused(f"{folder}: a file lies there; name a folder")
    found = {name for name in places.names_in(folder) if not name.startswith(places.ASIDE)}
    if not exists(folder) and found - {SCRATCH, f".{SCRATCH}.partial", "calibration"}:
        raise Refused(f"{folder}: not empty and not a run; name a new --out")


def write_outcome(place: Place, table: pa.Table) -> None:
    """Write an outcome part: a reader sees the whole part or none."""
    content = pa.BufferOutputStream()
    pq.write_table(table, content, compression="zstd")
    places.write(place, content.getvalue())


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    places.write(path, (text.rstrip("\n") + "\n").encode())


def _refuse_other(folder: Place, made: dict, now: dict) -> None:
    for key in sorted(made.keys() | now.keys()):
        if made.get(key) != now.get(key):
            was, is_now = made.get(key), now.get(key)
            raise Refused(f"{folder}: the run there was made with {key} {was}, now {is_now}; name a new --out")
