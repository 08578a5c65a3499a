"""Two studies: one of recorded answers, which was interrupted on its way, and one of a tiny large model that looks."""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from uacs.config import settings_of
from uacs.data.prepared import PreparedDataset
from uacs.study.conduct import Hearing, conduct
from uacs.study.layout import Study
from uacs.study.settings import StudySettings

QUICK = dict(lr_text=2e-3, lr_audio=5e-3, lr_other=5e-3, batch_size=16, accumulate=1, max_epochs=2, members=2)


class Stop(Exception):
    """What a test breaks a study off by."""


def heard(study: Study, most: int | None = None) -> list[str]:
    """Conduct a study; returns its steps. After so many it is broken off."""
    steps: list[str] = []

    def step(what: str) -> None:
        steps.append(what)
        if len(steps) == most:
            raise Stop

    with suppress(Stop):
        conduct(study, Hearing(step))
    return steps


@pytest.fixture(scope="session")
def recorded_study(ray_cluster, dataset, encoder, recorded, tmp_path_factory) -> Study:
    """Two seeds, one of them with an ensemble of two, broken off in the middle of training and after it."""
    settings = StudySettings(
        large={"HumanOmni": {"model": f"recorded:{recorded}"}},
        seeds=[7, 8],
        ensembles=1,
        ubm={"text_encoder": str(encoder), "settings": QUICK},
        elsewhere={"itself": {"data": str(dataset.folder), "split": "valid", "recorded": f"recorded:{recorded}"}},
        faults=["no-audio", "noise"],
        draws=20,
    )
    study = Study(dataset, settings, tmp_path_factory.mktemp("study") / "recorded")
    heard(study, 2)
    heard(study, 4)
    heard(study)
    return study


@pytest.fixture(scope="session")
def looking_study(tiny_demo, tmp_path_factory) -> Study:
    """The demo's, by the file that it leaves, cut short: one seed, an ensemble of two. All are asked, and doubted."""
    demo, _ = tiny_demo
    short = ("seeds=[3]", "ubm.settings.members=2", "ubm.settings.max_epochs=3", "draws=20")
    short += ("hints=[numbers, words]", "faults=[no-text]", "beta=-1.0")  # nobody is sure
    settings = settings_of(StudySettings, demo / "study.yaml", short)
    study = Study(PreparedDataset(demo / "data"), settings, tmp_path_factory.mktemp("study") / "looking")
    heard(study)
    return study


@pytest.fixture
def again(recorded_study, tmp_path):
    """The recorded study's settings changed, over a copy of its folder."""

    def changed(**settings) -> Study:
        out = tmp_path / "copy"
        shutil.copytree(recorded_study.out, out)
        return replace(recorded_study, settings=recorded_study.settings.model_copy(update=settings), out=Path(out))

    return changed
