"""The demo, small: every folder that it promises, real models of both kinds, and nothing done twice."""

import pytest

from tests.conftest import DEMO_SIZES
from tests.mmsa_files import write_pickle
from uacs import demo
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.evaluation import Models, evaluate
from uacs.cluster.runs import Run
from uacs.config import EvaluationSettings
from uacs.data.prepare import PrepareSettings, open_dataset
from uacs.data.prepared import PreparedDataset
from uacs.errors import Refused
from uacs.mllm import MllmSettings, build, prompts
from uacs.records import ANSWERED, SmallOutput


@pytest.fixture(scope="module")
def made(tiny_demo):
    return tiny_demo


@pytest.fixture(scope="module")
def chinese(ray_cluster, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "chinese"
    return out, demo.run(out, sizes=DEMO_SIZES | {"train": 320}, language="zh")


def test_it_leaves_what_later_commands_can_be_tried_on(made):
    out, summary = made
    names = {path.name for path in out.iterdir()}
    runs = {"calibration", "evaluation", "baseline"}
    assert names == runs | {"demo.json", "serve.yaml", "study.yaml", "corpus", "data", "encoder", "ubm", "mllm"}
    assert PreparedDataset(out / "data").rows("test") == 40
    for run in ("calibration", "evaluation", "baseline"):
        assert {"manifest.json", "metrics.json", "report.html", "thresholds.json"} <= {
            p.name for p in (out / run).iterdir()
        }
    assert summary["metrics"]["large"]["n"] + summary["metrics"]["large"]["unanswered"] == 40


def test_the_baseline_asks_about_everything_and_predicts_the_same(made):
    ours, baseline = (Run.open(made[0] / name).table() for name in ("evaluation", "baseline"))
    assert "not_asked" not in baseline["large_status"].to_pylist()
    assert "not_asked" in ours["large_status"].to_pylist()
    assert ours["stage"].to_pylist() == baseline["stage"].to_pylist()


def test_the_large_model_answers_through_serve_as_when_called_directly(made):
    out, _ = made
    samples = list(PreparedDataset(out / "data").samples("test"))
    model = build(str(out / "mllm"), MllmSettings(**demo.MLLM), (-3.0, 3.0))
    direct = {s.sample_id: o for s, o in zip(samples, model.answer(samples), strict=True)}
    rows = Run.open(out / "baseline").table().to_pylist()
    assert any(row["large_status"] in ANSWERED for row in rows)
    for row in rows:
        output = direct[row["sample_id"]]
        assert row["large_status"] == output.status
        if output.status in ANSWERED:
            assert row["y_large"] == pytest.approx(output.y, abs=1e-5)
            assert row["u_large"] == pytest.approx(output.u, abs=1e-5)


def test_another_read_out_and_second_look_go_through_ray_as_when_called_directly(made, tmp_path):
    out, _ = made
    data = PreparedDataset(out / "data")
    settings = EvaluationSettings(mllm=dict(demo.MLLM, readout="head"), chunk_size=16)
    models = Models(data, "test", out / "ubm", str(out / "mllm"))
    with pytest.raises(Refused, match="made with readout decode, this run has head"):
        evaluate(models, Thresholds.load(out / "calibration" / "thresholds.json"), tmp_path / "refused", settings)
    thresholds = Thresholds(tau_small=0.0, tau_large=0.0)
    evaluate(models, thresholds, tmp_path / "run", settings, all_stages=True)
    rows = {row["sample_id"]: row for row in Run.open(tmp_path / "run").table().to_pylist()}
    samples = list(data.samples("test"))
    model = build(str(out / "mllm"), settings.mllm, (-3.0, 3.0))
    large = model.answer(samples)
    twice = [k for k, s in enumerate(samples) if rows[s.sample_id]["verify_status"] != "not_asked"]
    assert 0 < len(twice) < len(samples)
    small = [SmallOutput(*(rows[samples[k].sample_id][n] for n in ("y_small", "u_small", "p_small"))) for k in twice]
    looked = model.verify([samples[k] for k in twice], small, [large[k] for k in twice])
    for sample, output in zip(samples, large, strict=True):
        row = rows[sample.sample_id]
        assert (row["y_large"], row["u_large"]) == pytest.approx((output.y, output.u), abs=1e-4)
        assert dict(row["signals"])["p_negative"] == pytest.approx(output.signals["p_negative"], abs=1e-4)
    for k, output in zip(twice, looked, strict=True):
        row = rows[samples[k].sample_id]
        assert (row["y_verify"], row["u_verify"]) == pytest.approx((output.y, output.u), abs=1e-4)
        assert dict(row["signals"])["verify_p_negative"] == pytest.approx(output.signals["p_negative"], abs=1e-4)


def test_a_second_call_finds_everything_done(made):
    out, summary = made
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in (".parquet", ".safetensors", ".mp4")}
    assert demo.run(out, sizes=DEMO_SIZES) == summary
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_another_seed_or_a_folder_of_something_else_is_refused(made, tmp_path):
    with pytest.raises(Refused, match="another seed, language or model"):
        demo.run(made[0], seed=5, sizes=DEMO_SIZES)
    with pytest.raises(Refused, match="another seed, language or model"):
        demo.run(made[0], sizes=DEMO_SIZES, language="zh")
    with pytest.raises(Refused, match="another seed, language or model"):
        demo.run(made[0], sizes=DEMO_SIZES, model="humanomni")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(Refused, match="not empty and not a demo"):
        demo.run(tmp_path)


@pytest.mark.cluster
@pytest.mark.parametrize("model", ["humanomni", "videollama2"])
def test_each_of_the_papers_experts_goes_through_the_whole_cascade(ray_cluster, tmp_path, model):
    summary = demo.run(tmp_path / "run", sizes=DEMO_SIZES | {"train": 320}, model=model)
    large = summary["metrics"]["large"]
    assert large["n"] + large["unanswered"] == 40 and large["n"] > 20
    samples = list(PreparedDataset(tmp_path / "run" / "data").samples("test"))
    eight, one = (
        build(str(tmp_path / "run" / "mllm"), MllmSettings(frames=2, batch_size=size), (-3.0, 3.0)).answer(samples)
        for size in (8, 1)
    )
    served = {row["sample_id"]: row for row in Run.open(tmp_path / "run" / "baseline").table().to_pylist()}
    for sample, a, b in zip(samples, eight, one, strict=True):
        row = served[sample.sample_id]
        assert a.status == b.status == row["large_status"]
        if a.status in ANSWERED:
            assert (a.y, a.u) == (pytest.approx(b.y, abs=1e-4), pytest.approx(b.u, abs=1e-4))
            assert (row["y_large"], row["u_large"]) == (pytest.approx(a.y, abs=1e-4), pytest.approx(a.u, abs=1e-4))


@pytest.mark.cluster
def test_in_chinese_it_is_simss_way_from_the_labels_to_the_report(chinese):
    out, summary = chinese
    data = PreparedDataset(out / "data")
    assert (data.info.like, data.info.language, data.info.score_range) == ("sims", "zh", (-1.0, 1.0))
    labels = [label for s in data.samples("train") for label in (s.label, *s.unimodal.values())]
    assert len(labels) > 160 and max(map(abs, labels)) <= 1
    assert {"acc2", "f1", "acc3", "acc5", "mae", "corr"} == set(summary["metrics"]["small"]) - {"n"}
    manifest = Run.open(out / "baseline").manifest
    assert manifest["identity"]["prompts"] == prompts.version("zh") != prompts.version("en")
    answers = [row["y_large"] for row in Run.open(out / "baseline").table().to_pylist() if row["y_large"] is not None]
    assert answers and all(-1 <= y <= 1 for y in answers)
    assert "acc5" in (out / "baseline" / "report.html").read_text()


def outcomes(run):
    """A run's outcomes, but for the seconds that they took."""
    return Run.open(run).table().drop_columns(["seconds_small", "seconds_large", "seconds_verify"])


@pytest.mark.cluster
@pytest.mark.parametrize("corpus", ["made", "chinese"])
def test_raw_clips_give_the_same_outcomes_as_their_prepared_form(corpus, request, tmp_path):
    out, _ = request.getfixturevalue(corpus)
    thresholds = Thresholds.load(out / "evaluation" / "thresholds.json")
    settings = EvaluationSettings(mllm=demo.MLLM)
    like = demo.LIKE["zh" if corpus == "chinese" else "en"]
    raw = open_dataset(out / "corpus", tmp_path / "run", PrepareSettings(dataset="demo", like=like))
    evaluate(Models(raw, "test", out / "ubm", str(out / "mllm")), thresholds, tmp_path / "run", settings)
    assert outcomes(tmp_path / "run").equals(outcomes(out / "evaluation"))


@pytest.mark.cluster
def test_the_corpus_as_a_pickle_gives_the_same_outcomes_as_its_clips(made, tmp_path):
    out, _ = made
    data = PreparedDataset(out / "data")
    splits = {split: list(data.samples(split)) for split in ("train", "valid", "test")}
    pickled = write_pickle(tmp_path / "demo.pkl", splits, {"audio": 60, "vision": 20})
    told = PrepareSettings(dataset="demo", like="mosei", extractor="uacs-basic-2", clips=out / "corpus" / "Raw")
    raw = open_dataset(pickled, tmp_path / "run", told)
    thresholds = Thresholds.load(out / "evaluation" / "thresholds.json")
    settings = EvaluationSettings(mllm=demo.MLLM)
    evaluate(Models(raw, "test", out / "ubm", str(out / "mllm")), thresholds, tmp_path / "run", settings)
    assert outcomes(tmp_path / "run").equals(outcomes(out / "evaluation"))
