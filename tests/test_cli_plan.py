"""`uacs plan` on a run of its own: the table, the file, and what is wrong with what it is told."""

import pandas as pd
import pytest
from ray.serve._private.constants import RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S

from uacs.cascade.queues import Growth
from uacs.cascade.sizing import Service
from uacs.cluster.evaluation import Models, calibrate
from uacs.cluster.resources import Resources
from uacs.cluster.serving import application
from uacs.cluster.serving.expert import Expert
from uacs.cluster.serving.settings import EndpointSettings
from uacs.config import EvaluationSettings


@pytest.fixture(scope="module")
def run(ray_cluster, dataset, ubm, recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "calibration"
    settings = EvaluationSettings(resources=Resources(pool=1, parts_in_flight=1))
    calibrate(Models(dataset, "valid", ubm, f"recorded:{recorded}"), out, settings)
    return out


def test_a_plan_says_what_each_goal_takes_and_costs(uacs, run, tmp_path):
    words = ["--clips-per-day", "400000", "--p95", "6", "--p95", "3", "--price", "large=2", "--loading", "30"]
    code, said, err = uacs("plan", run, *words, "--csv", tmp_path / "plan.csv")
    assert code == 0, err
    assert said.startswith("400,000 clips a day, 9.3 a second at noon; ")
    assert said.index("95 % within 3 s") < said.index("95 % within 6 s")
    assert said.count("\n  replicas that stay") == said.count("\n  the large model alone") == 2 and "price/day" in said
    table = pd.read_csv(tmp_path / "plan.csv")
    assert table["goal_p95"].tolist() == [3, 3, 3, 6, 6, 6]
    assert (table["p95"] <= table["goal_p95"]).all()
    assert table["price"].tolist() == pytest.approx((2 * table["hours_large"]).tolist())
    stays = table[table["setup"] == "fixed"].iloc[0]
    assert f"{stays['price']:,.2f}" in said
    alone = table[table["setup"] == "alone"].iloc[0]
    assert alone["hours_large"] > stays["hours_large"] == 24 * stays["replicas_large"]


def test_a_slower_machine_takes_more_and_the_same_words_the_same_plan(uacs, run):
    words = ["plan", run, "--clips-per-day", "400000", "--p95", "20"]
    (_, first, _), (_, again, _) = uacs(*words), uacs(*words)
    _, slower, _ = uacs(*words, "--seconds", "large=0.2+2", "--seconds", "verify=1")
    _, other, _ = uacs(*words, "--seed", "1")
    assert first == again != other
    assert "large model 0.5" in first and "(and 0.2 s a batch), second looks included" in slower

    def replicas(said):
        return int(said.split("replicas that stay")[1].split()[1])

    assert replicas(slower) > replicas(first)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("", 2, "Missing option '--clips-per-day'"),
        ("--clips-per-day nan", 2, "nan is not a number to reckon with"),
        ("--clips-per-day 1e300", 2, "1e+300 is not in the range"),
        ("--clips-per-day 1e5 --peak nan", 2, "nan is not a number to reckon with"),
        ("--clips-per-day 1e5 --peak 0.5", 2, "'--peak': 0.5 is not in the range"),
        ("--clips-per-day 1e5 --seconds second=3", 2, "--seconds second=3: expected STAGE=NUMBER, of stage small"),
        ("--clips-per-day 1e5 --seconds large=fast", 2, "--seconds large=fast: no number"),
        ("--clips-per-day 1e5 --seconds large=-1", 2, "a number of 0 or more is wanted"),
        ("--clips-per-day 1e5 --batch large=0", 2, "a number of 1 or more is wanted"),
        ("--clips-per-day 1e5 --batch large=1.5", 2, "no whole number"),
        ("--clips-per-day 1e5 --csv no/plan.csv", 2, "--csv no/plan.csv: no such folder"),
        ("--clips-per-day 1e5 --price large=1 --price large=2", 2, "large is named twice"),
        ("--clips-per-day 1e5 --price verify=1", 2, "stage 3 is the large model's"),
        ("--clips-per-day 1e5 --thresholds no.json", 1, "no.json: no thresholds there"),
    ],
)
def test_wrong_words_are_one_line(uacs, run, words, code, said):
    found, _, err = uacs("plan", run, *words.split())
    assert found == code and said in err and "Traceback" not in err


def test_thresholds_of_other_models_are_refused(uacs, run, tmp_path):
    made = (run / "thresholds.json").read_text().replace('"estimator": "cbe"', '"estimator": "ptd"')
    (tmp_path / "thresholds.json").write_text(made)
    code, _, err = uacs("plan", run, "--clips-per-day", "1e5", "--thresholds", tmp_path / "thresholds.json")
    assert code == 1 and "made with estimator ptd" in err


def test_it_knows_how_serve_grows(ubm, recorded):
    """The simulation has Serve's figures, and ours, by value."""
    told = {"ubm": str(ubm), "mllm": f"recorded:{recorded}", "large_pool": {"replicas": "1-4"}}
    settings = EndpointSettings.model_validate(told)
    growth, batch = Growth(lambda *_: 1), settings.settings.batch_size
    built = application._deployment(Expert, "large", settings, settings.large_pool, batch)
    scaling = built._deployment_config.autoscaling_config
    delays = scaling.upscale_delay_s, scaling.downscale_delay_s, scaling.look_back_period_s
    assert delays == (growth.up, growth.down, growth.look_back)
    assert growth.reports == RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S
    assert built.max_ongoing_requests == Service().stage("large", 1).room == 4 * batch
    asked = []
    grown = Service().growing("large", 1, 4, lambda queue, *_: asked.append(queue) or 1)
    grown.growth.wanted(float(scaling.target_ongoing_requests), 0.0, 0.0)
    assert asked == [1.0]  # so many under way are one replica's
    assert Service().batch == {"small": settings.small.batch_size, "large": batch, "verify": batch}
