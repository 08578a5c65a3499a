"""Over real HTTP, against a real Serve with real models: what goes in, what comes out, and every way to be refused."""

import json
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
import ray

from tests.cluster.chaos import wait_until
from tests.cluster.serving.conftest import serving
from uacs.client import Client, Unanswered
from uacs.cluster.runs import Run
from uacs.cluster.serving.keys import add
from uacs.cluster.serving.settings import EndpointSettings
from uacs.data.media import decode
from uacs.data.prepared import PreparedDataset
from uacs.data.speech import Recogniser
from uacs.errors import BadInput, WrongUse
from uacs.ubm.predictor import SmallPredictor


@pytest.fixture(scope="module")
def samples(tiny_demo):
    return list(PreparedDataset(tiny_demo[0] / "data").samples("test"))


@pytest.fixture(scope="module")
def evaluated(tiny_demo):
    """What `evaluate` said of each sample."""
    return {row["sample_id"]: row for row in Run.open(tiny_demo[0] / "evaluation").table().to_pylist()}


def assert_as_evaluated(answer, row):
    assert (answer.stage, answer.answer_from, answer.status) == (row["stage"], row["answer_from"], row["status"])
    for name in ("prediction", "y_small", "u_small", "y_large", "u_large", "y_verify", "u_verify"):
        if row[name] is None:
            assert getattr(answer, name) is None
        else:
            assert getattr(answer, name) == pytest.approx(row[name], abs=1e-5)


def test_a_clip_and_its_transcript_are_answered_as_in_an_evaluation(client, samples, evaluated):
    for sample in samples:
        answer = client.predict(sample.text, clip=Path(sample.clip), sample_id=sample.sample_id)
        assert answer.sample_id == sample.sample_id
        assert answer.missing == [m for m in ("text", "audio", "vision") if getattr(sample, m) is None]
        assert_as_evaluated(answer, evaluated[sample.sample_id])
    assert {row["stage"] for row in evaluated.values()} > {"small"}


def test_features_and_a_clip_that_it_may_open_are_answered_as_in_an_evaluation(client, samples, evaluated):
    results = client.predict_batch(samples)
    assert [r.sample_id for r in results] == [s.sample_id for s in samples]
    for answer in results:
        assert_as_evaluated(answer, evaluated[answer.sample_id])


def test_a_sentence_alone_is_answered_and_what_was_missing_is_said(client):
    answer = client.predict("wonderful")
    assert answer.status == "ok" and answer.missing == ["audio", "vision"]
    assert answer.sample_id == answer.request_id
    assert answer.polarity == ("positive" if answer.prediction > 0 else "negative")
    assert answer.seconds.total >= answer.seconds.small > 0


def test_footage_alone_is_answered(client, samples):
    assert client.predict(clip=Path(samples[0].clip)).missing == ["text"]


def test_what_is_said_in_a_clip_without_a_transcript_is_written_down(models, samples, recogniser):
    sample = next(s for s in samples if s.text and s.audio is not None and s.vision is not None)
    with serving(EndpointSettings(**models, speech=recogniser), "heard") as url, Client(url) as client:
        own, heard = (client.predict(text, clip=Path(sample.clip)) for text in (sample.text, None))
    words = Recogniser(recogniser, "en").words(decode(sample.clip).waveform, 16000)
    expected = SmallPredictor(models["ubm"]).predict([sample, replace(sample, text=words)])
    assert own.missing == heard.missing == []
    assert [own.y_small, heard.y_small] == pytest.approx([output.y for output in expected], abs=1e-5)


def test_a_budget_of_the_small_model_asks_no_other(client, samples, evaluated):
    results = client.predict_batch(samples, max_stage="small")
    assert {r.stage for r in results} == {"small"} and all(r.y_large is None for r in results)
    assert [r.prediction for r in results] == [r.y_small for r in results]


def test_a_batch_keeps_its_order_and_says_what_is_wrong_with_some(client):
    results = client.predict_batch([{"text": "good"}, {"text": 5}, {"sample_id": "c", "audio": [[1, 2, 3]]}, {}])
    assert [r.status for r in results] == ["ok", "error", "error", "error"]
    assert "text: input should be" in results[1].error
    assert results[2].sample_id == "c" and "the UBM reads (steps, 1)" in results[2].error
    assert "nothing to answer" in results[3].error and results[3].prediction is None


@pytest.mark.parametrize(
    ("path", "body", "code", "said"),
    [
        ("predict", {}, 422, "nothing to answer"),
        ("predict", {"text": "  "}, 422, "nothing the UBM reads"),
        ("predict", {"audio": [[1.0, 2.0]]}, 422, "the UBM reads (steps, 1)"),
        ("predict", {"audio": [[1e300]]}, 422, "holds NaN or infinity"),
        ("predict", {"text": "x", "clip": "/etc/passwd"}, 422, "under none of the roots"),
        ("predict", {"text": "x", "clip": "not/there.mp4"}, 422, "clip: "),
        ("predict", {"text": "x" * 2**20}, 413, "larger than 1 MiB"),
        ("predict/batch", {"samples": []}, 422, "samples: expected a list"),
        ("predict/batch", {"samples": [{"text": "x"}] * 257}, 413, "256 may come at once"),
        ("predict", {"text": "x", "deadline": 1e-6}, 504, "in time"),
        ("nowhere", {}, 404, "Not Found"),
    ],
)
def test_what_is_refused_is_said_in_a_line_with_the_request_s_id(endpoint, path, body, code, said):
    response = httpx2.post(f"{endpoint}/v1/{path}", json=body, timeout=60)
    assert (response.status_code, response.headers["content-type"]) == (code, "application/json")
    problem = response.json()
    assert said in problem["error"] and "\n" not in problem["error"]
    assert problem["request_id"] == response.headers["x-request-id"]


def test_a_clip_that_is_none_is_refused_without_our_paths(client):
    with pytest.raises(Unanswered, match="sample 'odd': clip: not a clip that decodes") as told:
        client.predict("words", clip=b"no clip at all", sample_id="odd")
    assert told.value.code == 422 and "/" not in str(told.value)


def test_a_method_that_there_is_not_is_refused(endpoint):
    assert httpx2.get(f"{endpoint}/v1/predict").status_code == 405


def test_it_says_what_it_is(client, endpoint, tiny_demo):
    info, health = client.info(), client.health()
    assert (info.dataset, info.score_range, info.features) == ("demo", (-3.0, 3.0), {"audio": 1, "vision": 3})
    assert info.limits.body_mib == 1 and info.reads_clips and not info.keys
    thresholds = json.loads((tiny_demo[0] / "evaluation" / "thresholds.json").read_text())
    assert (info.tau_small, info.models.ubm, info.models.mllm) == tuple(
        thresholds[k] for k in ("tau_small", "ubm", "mllm")
    )
    assert (health.status, health.small, health.large) == ("ok", True, True)
    page = httpx2.get(f"{endpoint}/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]


def test_a_request_keeps_the_id_that_it_came_with(endpoint):
    response = httpx2.post(f"{endpoint}/v1/predict", json={"text": "x"}, headers={"X-Request-ID": "mine-1"})
    assert response.json()["request_id"] == response.headers["x-request-id"] == "mine-1"


def test_with_keys_only_those_who_have_one_are_answered(recordings, tmp_path):
    key = add(tmp_path / "keys", "team")
    with serving(EndpointSettings(**recordings, keys=str(tmp_path / "keys")), "locked") as url:
        assert Client(url, key).predict("fine").status == "ok"
        for headers in ({}, {"Authorization": f"Bearer {key}x"}, {"Authorization": f"Basic {key}"}):
            for method, path in (("POST", "predict"), ("POST", "predict/batch"), ("GET", "info")):
                response = httpx2.request(method, f"{url}/v1/{path}", headers=headers)
                assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert Client(url).health().status == "ok"
        second = add(tmp_path / "keys", "other")
        assert Client(url, second).predict("fine").status == "ok"


def test_the_client_says_what_it_cannot_send(client, tmp_path):
    with pytest.raises(WrongUse, match="cannot go together"):
        client.predict("x", clip=b"clip", audio=np.zeros((2, 1)))
    with pytest.raises(BadInput, match="absent.mp4"):
        client.predict(clip=tmp_path / "absent.mp4")
    with pytest.raises(Unanswered, match="nobody answers there"), Client("http://127.0.0.1:9", retries=0) as nobody:
        nobody.info()


def test_a_sample_of_ours_may_be_sent_as_it_is(client, samples):
    bare = replace(samples[0], clip=None)
    assert client.predict_batch([bare])[0].missing == []


def test_the_log_has_a_line_a_request_and_no_word_of_it(client):
    secret = "nobody may read this sentence"
    answer = client.predict(secret, sample_id="of-a-person")
    with pytest.raises(Unanswered):
        client.predict(secret, clip=b"no clip")
    logs = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"

    def lines():
        return "\n".join(path.read_text(errors="replace") for path in logs.glob("*.log")).splitlines()

    wait_until(lambda: any(answer.request_id in line and '"code": 200' in line for line in lines()), 20)
    assert not [line for line in lines() if secret in line or "of-a-person" in line]
