"""A run's directory: manifest, outcome parts, and who may go on with it.

manifest.json          identity (what the outcomes depend on), settings, versions, sessions
outcomes/PART.parquet  one file a data part; its name is the proof that the part is done
metrics.json, report.html
"""

import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from uacs import fingerprints, mllm
from uacs.cascade import thresholds as eq19
from uacs.cascade.thresholds import Thresholds
from uacs.data.prepare import SCRATCH
from uacs.errors import BadInput, Refused
from uacs.records import OUTCOME_SCHEMA


class Run:
    """A run directory, opened for writing or reading."""

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest = folder, manifest

    @classmethod
    def begin(cls, folder: Path, identity: dict, settings: dict) -> "Run":
        """A new run, or the one that lies there if its identity is this one; else `Refused`, with the difference."""
        path = folder / "manifest.json"
        if not path.exists():
            refuse_foreign(folder)
            versions = {name: version(name) for name in ("uacs", "ray", "torch", "transformers", "numpy")}
            manifest = {
                "format": 1,
                "run_id": uuid.uuid4().hex[:12],
                "identity": identity,
                "settings": settings,
                "versions": versions | {"python": platform.python_version()},
                "sessions": [],
            }
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder, manifest)
            run._save()
        else:
            run = cls.open(folder)
            _refuse_other(folder, run.manifest["identity"], identity)
        (folder / "outcomes").mkdir(exist_ok=True)
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """The run that lies there; raises `BadInput` if none does."""
        try:
            return cls(folder, json.loads((folder / "manifest.json").read_text()))
        except (OSError, json.JSONDecodeError):
            raise BadInput(f"{folder}: no manifest.json there, so no run; make one with `uacs evaluate`") from None

    @property
    def run_id(self) -> str:
        """The id that the run's Serve application carries."""
        return self.manifest["run_id"]

    def outcome(self, part: str) -> Path:
        """Where the outcomes of a data part belong."""
        return self.folder / "outcomes" / part

    def missing(self, parts: list[str]) -> list[str]:
        """The parts that are not done yet, in order."""
        return [part for part in parts if not self.outcome(part).exists()]

    def table(self) -> pa.Table:
        """All outcomes so far, sorted by sample id."""
        files = sorted((self.folder / "outcomes").glob("*.parquet"))
        if not files:
            raise BadInput(f"{self.folder}: no outcomes yet; run the command that began it again")
        return pa.concat_tables(pq.read_table(f, schema=OUTCOME_SCHEMA) for f in files).sort_by("sample_id")

    def thresholds(self, lambda_: float, beta: float) -> Thresholds:
        """Both thresholds by Eq. 18-19, from the outcomes of a run that asked both models about everything."""
        identity = self.manifest["identity"]
        try:
            thresholds = eq19.of_table(self.table(), lambda_, beta)
        except BadInput as error:
            raise BadInput(f"{self.folder}, split '{identity['split']}': {error}") from None
        made_with = {name: identity[name] for name in ("estimator", "readout", "ubm", "mllm", "dataset", "split")}
        return thresholds.model_copy(update=made_with | {"fingerprint": _asking(identity)})

    def metrics(self) -> dict:
        """metrics.json; raises `BadInput` if the run is not finished."""
        try:
            return json.loads((self.folder / "metrics.json").read_text())
        except OSError:
            raise BadInput(
                f"{self.folder}: no metrics.json: the run is not finished; start it again to go on"
            ) from None

    @contextmanager
    def session(self) -> Iterator[dict]:
        """Note how long a session took and how many parts it did, however it ends."""
        session, started = {"seconds": 0.0, "parts": 0}, time.perf_counter()
        self.manifest["sessions"].append(session)
        try:
            yield session
        finally:
            session["seconds"] = time.perf_counter() - started
            self._save()

    def wall(self) -> float:
        """Wall seconds of all sessions, but for those that were killed."""
        return sum(session["seconds"] for session in self.manifest["sessions"])

    def _save(self) -> None:
        write_whole(self.folder / "manifest.json", json.dumps(self.manifest, indent=2))


def refuse_other_models(thresholds: Thresholds, identity: dict) -> None:
    """Refuse thresholds that were made with other models, or with the large one asked otherwise, than a run has."""
    for what in ("estimator", "readout", "ubm", "mllm"):
        made, now = getattr(thresholds, what), identity[what]
        recorded = what == "mllm" and made and made.startswith(mllm.RECORDED) and now.startswith(mllm.RECORDED)
        if made and made != now and not recorded:  # recorded answers of another split are another file
            raise Refused(f"the thresholds were made with {what} {made}, this run has {now}; calibrate again")
    if thresholds.fingerprint and thresholds.fingerprint != _asking(identity):
        asked = ", ".join(f"{key} {identity[key]}" for key in ASKING if key in identity)
        raise Refused(f"the thresholds were made with the large model asked otherwise, now {asked}; calibrate again")


ASKING = ("readout", "prompts", "frames", "max_new_tokens", "dtype")


def _asking(identity: dict) -> str:
    """How the large model was asked and read, apart from which one it is."""
    return fingerprints.of_settings({key: identity.get(key) for key in ASKING})


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds something else than a run."""
    if folder.exists() and not folder.is_dir():
        raise Refused(f"{folder}: a file lies there; name a folder")
    if (
        folder.exists()
        and not (folder / "manifest.json").exists()
        and any(folder.iterdir())
        and not _only_scratch(folder)
    ):
        raise Refused(f"{folder}: not empty and not a run; name a new --out")


def write_outcome(path: Path, table: pa.Table) -> None:
    """Write an outcome part aside and rename it: a reader sees the whole part or none."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, aside, compression="zstd")
    os.replace(aside, path)


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text + "\n")
    os.replace(aside, path)


def _only_scratch(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} <= {SCRATCH, f".{SCRATCH}.partial", "calibration"}


def _refuse_other(folder: Path, made: dict, now: dict) -> None:
    for key in sorted(made.keys() | now.keys()):
        if made.get(key) != now.get(key):
            was, is_now = made.get(key), now.get(key)
            raise Refused(f"{folder}: the run there was made with {key} {was}, now {is_now}; name a new --out")
