"""A study is done once, goes on where it was, and comes to what its parts come to by themselves."""

import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.study.conftest import QUICK, heard
from uacs.cascade.outcomes import column
from uacs.cluster.runs import Run
from uacs.errors import Refused, UacsError
from uacs.mllm import MllmSettings, build
from uacs.study import results
from uacs.study.conduct import second_looks
from uacs.study.large import read_looks
from uacs.study.settings import Elsewhere, StudySettings
from uacs.study.small import read, spoilt, spreads
from uacs.ubm import ensemble
from uacs.ubm.predictor import SmallPredictor
from uacs.ubm.settings import TrainingSettings
from uacs.ubm.training import train

NAN = float("nan")


def test_what_is_there_is_not_done_again(again):
    study = again()
    assert heard(study) == []
    study.small(8, "test").unlink()
    study.fault("HumanOmni", "noise").unlink()
    steps = heard(study)
    assert [step.partition("  (")[0] for step in steps] == ["answered seed-8/small/test.parquet", "HumanOmni: noise"]
    study.fault("HumanOmni", "noise").write_bytes(study.fault("HumanOmni", "no-audio").read_bytes())  # another's
    assert [step.partition("  (")[0] for step in heard(study)] == ["HumanOmni: noise"]


def test_another_question_is_refused_and_a_further_seed_is_added(again):
    study = again(lambda_=0.3)
    with pytest.raises(Refused, match=r"lambda 0\.1, now 0\.3; name a new --out"):
        heard(study)
    more = {"lambda_": None, "seeds": [7, 8, 9], "faults": [*study.settings.faults, "no-text"]}
    grown = replace(study, settings=study.settings.model_copy(update=more))
    steps = {step.partition("  (")[0].partition(" in ")[0] for step in heard(grown)}
    answered = {f"answered seed-{place}.parquet" for place in ("9/small/valid", "9/small/test", "7/small/no-text")}
    assert steps == {"trained seed-9/ubm", "HumanOmni: no-text"} | answered


def test_what_would_fail_after_hours_is_refused_at_once(again, tmp_path):
    def trouble(**settings):
        with pytest.raises(UacsError) as stop:
            heard(again(**settings))
        return str(stop.value)

    other = {"wrong": Elsewhere(data=str(tmp_path / "nowhere"))}
    assert "no dataset.json there" in trouble(elsewhere=other)


def test_a_plan_that_ray_has_no_room_for_is_refused_before_any_training(again):
    study = again()
    settings = study.settings.ubm.model_copy(update={"gpus": 0.5})
    with pytest.raises(Refused, match=r"ubm\.gpus is 0\.5, and no node of this Ray has as much; set it to 0"):
        heard(replace(study, settings=study.settings.model_copy(update={"ubm": settings})))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"large": {"a": {"model": "m", "settings": {"hints": "words"}}}}, "large.a.settings.hints: the study tells"),
        ({"large": {"../a": {"model": "m"}}}, "'../a': expected letters and digits"),
        ({"seeds": [1, 1]}, "seeds\n  Value error, each once"),
        ({"hints": []}, "at least 1 item"),
        ({"run": {"estimator": "ptd"}}, "run.estimator: a study asks every model its own way"),
        ({"ubm": {"settings": {"seed": 3}}}, "ubm.settings.seed: the study sets it; see `seeds`"),
        ({"draws": 5}, "greater than or equal to 20"),
    ],
)
def test_settings_that_make_no_sense_say_so(settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        StudySettings.model_validate({"large": {"a": {"model": "m"}}} | settings)


def test_the_command_refuses_what_it_cannot_do(uacs, recorded, tmp_path, dataset):
    spec, out = f"recorded:{recorded}", tmp_path / "study"
    for words, code, said in (
        ((dataset.folder, "--out", out), 2, "a study needs a large model; give --mllm SPEC"),
        ((dataset.folder, "--mllm", spec, "--out", "s3://bucket/study"), 2, "a folder that every node sees"),
        ((tmp_path, "--mllm", spec, "--out", out), 1, "not prepared, and a study reads it many times; `uacs prepare"),
        ((dataset.folder, "--mllm", "recorded:no.parquet", "--out", out), 1, "no.parquet: no such file"),
        ((dataset.folder, "--mllm", spec, "--out", out, "--set", "seed=3"), 2, "seed: Extra inputs"),
    ):
        assert (got := uacs("study", *words))[0] == code, got
        assert said in got[2] and got[2].count("\n") == 1
    assert not out.exists()


def test_broken_off_and_taken_up_its_ubm_is_that_of_a_training_in_peace(recorded_study, encoder, tmp_path):
    dataset, study = recorded_study.dataset, recorded_study
    alone = tmp_path / "alone"
    train(dataset, str(encoder), TrainingSettings(**QUICK, seed=7, threads=1), alone)
    samples = list(dataset.samples("test"))
    answers = {row["sample_id"]: row for row in read(study.small(7, "test")).to_pylist()}
    for sample, output in zip(samples, SmallPredictor(alone).predict(samples), strict=True):
        row = answers[sample.sample_id]
        assert row["y"] == pytest.approx(output.y, abs=1e-5)
        assert dict(row["signals"])["cbe"] == pytest.approx(output.u, abs=1e-5)


def test_the_first_seed_has_an_ensemble_and_the_second_none(recorded_study):
    assert ensemble.is_whole(recorded_study.ubm(7)) and not ensemble.is_whole(recorded_study.ubm(8))
    first, second = (recorded_study.cell(seed, "HumanOmni") for seed in (7, 8))
    assert "ev" in first.test.u and "ev" not in second.test.u
    assert (first.test.u["ev"] >= 0).all()


def test_a_cell_decides_as_the_run_of_its_first_seed_did(recorded_study):
    cell = results.view(recorded_study, "HumanOmni").cells[0]
    thresholds = Run.open(recorded_study.run("HumanOmni", "calibration"))
    taus = cell.thresholds("cbe", recorded_study.lambda_)
    made = thresholds.thresholds(recorded_study.lambda_, 0.0)
    assert taus == pytest.approx((made.tau_small, made.tau_large))
    table = Run.open(recorded_study.run("HumanOmni", "baseline")).table()
    ours = cell.decide("cbe", taus)
    assert ours.prediction == pytest.approx(column(table, "prediction"), abs=1e-5)


def test_a_spoilt_sample_lacks_what_it_is_to_lack_and_is_the_same_again(dataset):
    sample = next(dataset.samples("test"))
    spread = spreads(dataset)
    assert spread["audio"].shape == (3,)
    assert spoilt(sample, "no-text", {}).text is None and spoilt(sample, "no-text", {}).audio is not None
    assert spoilt(sample, "no-audio", {}).audio is None
    half = spoilt(sample, "half-words", {})
    assert half.text == spoilt(sample, "half-words", {}).text != sample.text
    assert set((half.text or "").split()) <= set(sample.text.split())
    noisy = spoilt(sample, "noise", spread)
    assert noisy.text == sample.text and noisy.audio.shape == sample.audio.shape
    apart = [(spoilt(s, "noise", spread).audio - s.audio) / spread["audio"] for s in dataset.samples("test")]
    assert np.concatenate(apart).std() == pytest.approx(1, abs=0.05)
    assert spoilt(sample, None, {}) is sample


def test_second_looks_are_those_of_the_model_asked_directly_and_no_prompt_is_asked_twice(looking_study):
    study = looking_study
    looks = second_looks(study, "tiny", "numbers")
    answers = read_looks(study.looks("tiny", "numbers"))
    assert looks and {look.key for look in looks} == answers.keys()
    assert len(pq.read_table(sorted(study.looks("tiny", "numbers").glob("*.parquet")))) == len(answers) < len(looks)
    large = study.settings.large["tiny"]
    model = build(large.model, MllmSettings(**large.settings.model_dump()), (-3.0, 3.0))
    some = looks[:: max(1, len(looks) // 12)]
    direct = model.verify([l.sample for l in some], [l.small for l in some], [l.large for l in some])
    for look, output in zip(some, direct, strict=True):
        row = answers[look.key]
        assert row["status"] == output.status
        assert (NAN if row["y"] is None else row["y"]) == pytest.approx(output.y, abs=1e-5, nan_ok=True)


def test_the_entropys_second_looks_are_those_of_its_run(looking_study):
    cell = results.view(looking_study, "tiny").cells[0]
    table = Run.open(looking_study.run("tiny", "baseline")).table()
    theirs = column(table, "y_verify")
    asked = np.isfinite(theirs)
    assert asked.any()
    assert cell.test.y_verify["cbe"][asked] == pytest.approx(theirs[asked], abs=1e-5)


def test_estimators_and_wordings_are_told_otherwise(looking_study):
    looks = {hints: second_looks(looking_study, "tiny", hints) for hints in ("numbers", "words")}
    said = {look.said for look in looks["numbers"] if look.sample == looks["numbers"][0].sample}
    assert len(said) > 1  # the estimators' doubts, in nats
    assert not {look.said for look in looks["words"]} & {look.said for look in looks["numbers"]}


def test_a_large_model_sees_a_spoilt_clip(looking_study):
    study = looking_study
    table = pq.read_table(study.fault("tiny", "no-text"))
    asked = [row for row in table.to_pylist() if row["large_status"] != "not_asked"]
    assert asked
    large = study.settings.large["tiny"]
    model = build(large.model, MllmSettings(**large.settings.model_dump()), (-3.0, 3.0))
    samples = [spoilt(study.test[row["sample_id"]], "no-text", {}) for row in asked]
    for row, output in zip(asked, model.answer(samples), strict=True):
        assert (NAN if row["y_large"] is None else row["y_large"]) == pytest.approx(output.y, abs=1e-5, nan_ok=True)
