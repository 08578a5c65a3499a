"""`uacs plan` on a run of its own: the table, the file, and what is wrong with what it is told."""

import pandas as pd
import pytest

from uacs.cascade.sizing import ROOM
from uacs.cluster.evaluation import Models, calibrate
from uacs.cluster.resources import Resources
from uacs.cluster.serving import application
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
    assert said.startswith("400,000 clips a day, 9.3 a second at most; ")
    assert said.index("95 % within 3 s") < said.index("95 % within 6 s")
    assert said.count("replicas that stay") == said.count("the large model alone") == 2 and "price/day" in said
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
    assert "large model 0.5" in first and "large model 2" in slower

    def replicas(said):
        return int(said.split("replicas that stay")[1].split()[1])

    assert replicas(slower) > replicas(first)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("", 2, "Missing option '--clips-per-day'"),
        ("--clips-per-day nan", 2, "nan is not a number to reckon with"),
        ("--clips-per-day 1e5 --peak 0.5", 2, "'--peak': 0.5 is not in the range"),
        ("--clips-per-day 1e5 --seconds second=3", 2, "--seconds second=3: expected STAGE=NUMBER, of stage small"),
        ("--clips-per-day 1e5 --seconds large=fast", 2, "--seconds large=fast: no number"),
        ("--clips-per-day 1e5 --seconds large=-1", 2, "a number of 0 or more is wanted"),
        ("--clips-per-day 1e5 --batch large=0", 2, "a number of 1 or more is wanted"),
        ("--clips-per-day 1e5 --price large=1 --price large=2", 2, "large is named twice"),
        ("--clips-per-day 1e5 --price verify=1", 2, "stage 3 is the large model's"),
        ("--clips-per-day 1e5 --thresholds no.json", 1, "no.json: no thresholds there"),
    ],
)
def test_wrong_words_are_one_line(uacs, run, words, code, said):
    found, _, err = uacs("plan", run, *words.split())
    assert found == code and said in err and "Traceback" not in err


def test_it_knows_how_much_a_replica_takes_on():
    assert ROOM == application.TOGETHER
