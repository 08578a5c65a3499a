"""The client: what it sends, when it asks again, and what it says where there is no answer."""

import json

import httpx2
import pytest

from uacs.client import Client, Unanswered
from uacs.wire import Health

HEALTH = Health(status="degraded", small=True, large=False)
PROBLEM = {"request_id": "r1", "error": "the large model has more to do than it may take on"}


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that the client makes, which take no time here."""
    made: list[float] = []
    monkeypatch.setattr("uacs.client.time.sleep", made.append)
    return made


def client(*answers, **options):
    """A client whose requests get these answers in turn; a `Response`, or an error that is raised."""
    left, seen = list(answers), []

    def answer(request):
        seen.append(request)
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, Exception):
            raise found
        return found

    made = Client("http://endpoint", transport=httpx2.MockTransport(answer), **options)
    made.seen = seen
    return made


def full(after=None):
    return httpx2.Response(503, json=PROBLEM, headers={} if after is None else {"Retry-After": after})


def info():
    return httpx2.Response(200, content=b"not json")


def test_it_comes_again_when_it_is_told_to_and_gives_up_in_the_end(pauses):
    with pytest.raises(Unanswered, match="more to do") as told:
        client(full("3"), full("7"), full(), full("soon"), full("999")).info()
    assert (told.value.code, told.value.request_id) == (503, "r1")
    assert pauses == [3, 7, 1, 1]
    with pytest.raises(Unanswered):
        client(full("999"), retries=1).info()
    assert pauses[-1] == 30


def test_a_connection_that_breaks_is_tried_again_and_one_that_is_late_is_not(pauses):
    broken = httpx2.ReadError("reset")
    with pytest.raises(Unanswered, match="more to do"):
        client(broken, httpx2.Response(422, json=PROBLEM)).info()
    assert len(pauses) == 1
    with pytest.raises(Unanswered, match="nobody answers there"):
        client(broken, retries=1).info()
    assert len(pauses) == 2
    with pytest.raises(Unanswered, match="no answer in time"):
        client(httpx2.ReadTimeout("late")).info()
    assert len(pauses) == 2


def test_an_endpoint_that_can_answer_by_the_small_model_alone_says_so():
    assert client(httpx2.Response(200, content=HEALTH.model_dump_json())).health() == HEALTH
    assert client(httpx2.Response(503, content=HEALTH.model_dump_json())).health() == HEALTH


def test_a_refusal_is_not_repeated(pauses):
    made = client(httpx2.Response(422, json=PROBLEM))
    with pytest.raises(Unanswered) as told:
        made.predict("x")
    assert told.value.code == 422 and len(made.seen) == 1 and not pauses


def test_serve_s_own_word_that_it_is_full_is_understood(pauses):
    with pytest.raises(Unanswered, match="full, or starting") as told:
        client(httpx2.Response(503, content=b"Request dropped due to backpressure"), retries=1).info()
    assert told.value.code == 503 and len(pauses) == 1


def test_a_proxy_that_lost_the_replica_it_asked_is_asked_again_and_an_endpoint_at_fault_is_not(pauses):
    proxy = httpx2.Response(500, headers={"Content-Type": "text/plain"}, content=b"Internal Server Error")
    with pytest.raises(Unanswered, match="more to do"):
        client(proxy, httpx2.Response(422, json=PROBLEM)).info()
    assert len(pauses) == 1
    with pytest.raises(Unanswered, match="full, or starting"):
        client(proxy, retries=0).info()
    with pytest.raises(Unanswered, match="more to do"):
        client(httpx2.Response(500, json=PROBLEM)).info()
    assert len(pauses) == 1


def test_what_is_no_endpoint_is_said():
    with pytest.raises(Unanswered, match="is that an endpoint of U-ACS"):
        client(info()).info()


def test_it_sends_what_was_said_and_nothing_else():
    made = client(httpx2.Response(422, json=PROBLEM), key="secret")
    for ask in (lambda: made.predict("x", max_stage="small"), lambda: made.predict_batch([{"text": "y"}], deadline=2)):
        with pytest.raises(Unanswered):
            ask()
    first, second = made.seen
    assert first.url.path == "/v1/predict" and first.headers["authorization"] == "Bearer secret"
    assert json.loads(first.content) == {"text": "x", "max_stage": "small"}
    assert json.loads(second.content) == {"samples": [{"text": "y"}], "max_stage": "verify", "deadline": 2}
