"""What `--dry-run` says, against what a run then does."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from uacs.cascade.thresholds import Fit, Thresholds
from uacs.cluster.estimate import _share, _weights, estimate, estimate_text
from uacs.cluster.evaluation import Models, calibrate, evaluate
from uacs.cluster.resources import Resources
from uacs.config import EvaluationSettings
from uacs.errors import Refused

SETTINGS = EvaluationSettings(chunk_size=16, resources=Resources(pool=1, parts_in_flight=1))
FOUR = EvaluationSettings(resources=Resources(pool="2-4", replicas=2))


@pytest.fixture(scope="module")
def models(dataset, ubm, recorded):
    return {split: Models(dataset, split, ubm, f"recorded:{recorded}") for split in ("valid", "test")}


@pytest.fixture(scope="module")
def calibration(ray_cluster, models, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "calibration"
    calibrate(models["valid"], out, SETTINGS)
    return out


def test_the_estimate_is_near_what_the_run_does(models, calibration, tmp_path):
    thresholds = calibration / "thresholds.json"
    found = estimate(models["test"], thresholds, tmp_path / "run", SETTINGS, False)
    summary = evaluate(models["test"], Thresholds.load(thresholds), tmp_path / "run", SETTINGS)
    asked = 600 - summary["stages"]["small"]
    # the share of 80 validation samples stands for that of 600: within two standard errors
    assert abs(found.asked - asked) / 600 < 2 * math.sqrt(0.25 / 80)
    assert found.seconds_large == pytest.approx(0.5 * found.asked + 0.25 * found.looked_twice)  # as recorded
    after = estimate(models["test"], thresholds, tmp_path / "run", SETTINGS, False)
    assert (after.samples, after.written, after.asked) == (600, 600, 0)


def test_pools_share_the_work_and_all_stages_asks_everyone(models, calibration, tmp_path):
    place = calibration / "thresholds.json"
    one, four = (estimate(models["test"], place, tmp_path / "x", s, False) for s in (SETTINGS, FOUR))
    assert four.seconds_large == pytest.approx(one.seconds_large / 2)
    assert four.seconds_small == pytest.approx(one.seconds_small / 4)
    assert estimate(models["test"], place, tmp_path / "x", SETTINGS, True).asked == 600
    said = estimate_text(four, FOUR)
    assert said.startswith("600 samples, 0 of them done; nothing was started\nexpected: ")
    assert "UBM 4 x 0.00 GiB" in said and "beyond start-up" in said and "nan" not in said


def test_a_verifier_of_its_own_has_its_own_time_and_weights(models, calibration, tmp_path):
    place, two = calibration / "thresholds.json", SETTINGS.model_copy(update={"resources": Resources(verifiers=2)})
    alone = estimate(models["test"], place, tmp_path / "x", SETTINGS, False)
    with_verifier = replace(models["test"], verifier=models["test"].mllm)
    unknown = estimate(with_verifier, place, tmp_path / "x", two, False)
    assert math.isnan(unknown.seconds_verifier)  # the calibration's second looks read on, a verifier's cannot
    assert "time:     unknown" in estimate_text(unknown, two)
    shutil.copytree(calibration, tmp_path / "verified")
    manifest = tmp_path / "verified" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"command"', '"verifier": {"readout": "recorded"}, "command"', 1))
    shared = estimate(with_verifier, tmp_path / "verified" / "thresholds.json", tmp_path / "x", two, False)
    assert shared.seconds_large == pytest.approx(0.5 * shared.asked)
    assert shared.seconds_verifier == pytest.approx(0.25 * shared.looked_twice / 2)
    assert alone.seconds_verifier is None and "verifier" not in estimate_text(alone, SETTINGS)
    assert "verifier" in estimate_text(shared, two)


def test_thresholds_alone_give_the_share_by_their_fits_and_no_time(models, tmp_path):
    fit = dict(lambda_=0.5, beta=0.0, mu_same=0.2, mu_opposite=0.6, sd_same=0.1, sd_opposite=0.1)
    made = Thresholds(tau_small=0.4, tau_large=0.4, small=Fit(**fit, n_same=300, n_opposite=100))
    made.save(tmp_path / "thresholds.json")
    found = estimate(models["test"], tmp_path / "thresholds.json", tmp_path / "x", SETTINGS, False)
    # 300 beyond +2 sd and 100 above -2 sd of 400: by hand (3 * .02275 + 1 * .97725) / 4
    assert found.asked / 600 == pytest.approx(0.261375, abs=1e-5)
    said = estimate_text(found, SETTINGS)
    assert "an unknown number of second looks" in said and "time:     unknown" in said
    assert math.isnan(_share(Thresholds(tau_small=0.4, tau_large=0.4)))
    with pytest.raises(Refused, match="run `uacs calibrate` first"):
        estimate(models["test"], None, tmp_path / "x", SETTINGS, False)


def test_weights_are_counted_in_the_dtype_that_they_are_loaded_in(tmp_path):
    save_file({"a": np.zeros((4, 5), np.float16), "b": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    assert _weights(tmp_path, "bfloat16") == 46 and _weights(tmp_path, "float32") == 92
    assert math.isnan(_weights(tmp_path / "nowhere", "float32"))


def test_the_command_starts_nothing(uacs, models, calibration, tmp_path):
    test = models["test"]
    words = [test.dataset.folder, "--ubm", test.ubm, "--mllm", test.mllm, "--out", tmp_path / "run"]
    code, said, _ = uacs("evaluate", *words, "--thresholds", calibration / "thresholds.json", "--dry-run")
    assert code == 0 and "by the calibration in" in said
    assert not (tmp_path / "run").exists()
