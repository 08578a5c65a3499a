"""Where things lie in a study's folder, and what its figures depend on.

manifest.json                 what the study is of, and its settings; status.json while it goes on
seed-K/ubm/                   the small model of a seed, its ensemble beneath
seed-K/small/                 what it answers: valid, test, test by ev, test clips that are spoilt, other data
large/NAME/calibration/       runs of `uacs calibrate` and `uacs evaluate --all-stages`, with the first seed's UBM
large/NAME/baseline/
large/NAME/looks/HINTS/       second looks for every seed and estimator
large/NAME/faults/            the cascade over clips that are spoilt
results.json  tables/  figures/  report.html
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from uacs import fingerprints, mllm
from uacs.cluster.runs import Run
from uacs.data.prepared import PreparedDataset
from uacs.mllm import MllmSettings
from uacs.mllm.prompts import Hints
from uacs.records import Sample
from uacs.study import small as smalls
from uacs.study.cells import Cell
from uacs.study.settings import StudySettings
from uacs.study.trainings import Learning


@dataclass(frozen=True)
class Study:
    """A study's dataset, settings and folder, and where in it things lie."""

    dataset: PreparedDataset
    settings: StudySettings
    out: Path

    @property
    def lambda_(self) -> float:
        """Eq. 19's λ."""
        own = self.settings.lambda_
        return self.dataset.info.kind.lambda_ if own is None else own

    def ubm(self, seed: int) -> Path:
        """The folder of a seed's UBM."""
        return self.out / f"seed-{seed}" / "ubm"

    def small(self, seed: int, name: str) -> Path:
        """The file of its answers to a set of samples."""
        return self.out / f"seed-{seed}" / "small" / f"{name}.parquet"

    def run(self, name: str, what: str) -> Path:
        """The folder of a large model's run, `calibration` or `baseline`."""
        return self.out / "large" / name / what

    def looks(self, name: str, hints: Hints) -> Path:
        """The folder of a large model's second looks."""
        return self.out / "large" / name / "looks" / hints

    def fault(self, name: str, fault: str) -> Path:
        """The outcomes of the cascade over test clips that are spoilt, or over another dataset."""
        return self.out / "large" / name / "faults" / f"{fault}.parquet"

    @cached_property
    def test(self) -> dict[str, Sample]:
        """The test samples by id, without features."""
        samples = self.dataset.samples("test")
        return {s.sample_id: replace(s, audio=None, vision=None) for s in samples}

    def cell(self, seed: int, name: str) -> Cell:
        """All answers of a seed's UBM and a large model; second looks are those that there are."""
        small = {split: smalls.read(self.small(seed, split)) for split in ("valid", "test")}
        if self.settings.ensemble_of(seed):
            by_ev = {split: smalls.read(self.small(seed, f"{split}-ev")) for split in ("valid", "test")}
        else:
            by_ev = {}
        large = {
            split: Run.open(self.run(name, what)).table()
            for split, what in (("valid", "calibration"), ("test", "baseline"))
        }
        return Cell.of(seed, name, self.dataset.info.like, small, by_ev, large)

    @property
    def primary(self) -> Hints:
        """How stage 3 is told of both answers in the cascade itself."""
        return self.settings.hints[0]

    def of_large(self, name: str, hints: Hints | None = None) -> MllmSettings:
        """How a large model answers, told one way."""
        return self.settings.large[name].settings.model_copy(update={"hints": hints or self.primary})


def identity(study: Study) -> dict:
    """What a study's answers depend on, by dotted names.

    Seeds may be added later, and so may ensembles, further hints, faults and draws.
    """
    info, settings = study.dataset.info, study.settings
    learning = Learning.of(study.dataset, settings)
    learned = learning.settings.model_dump(exclude={"threads", "device", "seed", "estimator"})
    found = {
        "command": "study",
        "dataset": info.name,
        "like": info.like,
        "split": "test",
        "data": {split: study.dataset.checksum(split)[:16] for split in ("train", "valid", "test")},
        "ubm": learned | {"text_encoder": learning.encoder},
        "first_seed": settings.seeds[0],
        "lambda": study.lambda_,
        "beta": settings.beta,
        "large": {
            name: mllm.identity(large.model, study.of_large(name), info.language, info.score_range, info.name)
            for name, large in settings.large.items()
        },
        "elsewhere": {
            name: {
                "split": other.split,
                "data": PreparedDataset(other.data).checksum(other.split)[:16],
                "recorded": other.recorded and fingerprints.of_file(Path(other.recorded.removeprefix(mllm.RECORDED))),
            }
            for name, other in settings.elsewhere.items()
        },
    }
    return _flat(found)


def _flat(told: Mapping, prefix: str = "") -> dict:
    """A mapping of mappings by dotted names."""
    found: dict = {}
    for name, value in told.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
