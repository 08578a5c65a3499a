"""One endpoint for all tests that only ask: the tiny demo's models, over real HTTP."""

import sys
from contextlib import contextmanager

import pytest
from ray import serve

from tests.cluster.serving.throwaway import MODULE
from uacs.client import Client
from uacs.cluster.serving.application import application
from uacs.cluster.serving.settings import EndpointSettings
from uacs.demo import MLLM


def address() -> str:
    """Where the session's Serve listens."""
    options = serve.context._get_global_client().http_config
    return f"http://127.0.0.1:{options.port}"


@contextmanager
def serving(settings: EndpointSettings, name: str):
    """An endpoint of its own under /NAME; yields its address."""
    serve.run(application(settings), name=name, route_prefix=f"/{name}")
    try:
        yield f"{address()}/{name}"
    finally:
        serve.delete(name)


@pytest.fixture(scope="session")
def models(tiny_demo) -> dict:
    """Settings that name the tiny demo's models and thresholds."""
    out, _ = tiny_demo
    paths = {"ubm": out / "ubm", "mllm": out / "mllm", "thresholds": out / "evaluation" / "thresholds.json"}
    return {name: str(path) for name, path in paths.items()} | {"settings": MLLM}


@pytest.fixture(scope="session")
def recordings(ray_cluster, ubm, recorded, tmp_path_factory) -> dict:
    """Settings that name the shared UBM and recorded answers: an endpoint that is up in a few seconds."""
    thresholds = tmp_path_factory.mktemp("thresholds") / "thresholds.json"
    thresholds.write_text('{"tau_small": 0.5, "tau_large": 0.5}')
    return {"ubm": str(ubm), "mllm": f"recorded:{recorded}", "thresholds": str(thresholds)}


@pytest.fixture(scope="session")
def endpoint(models, tiny_demo) -> str:
    """The address of an endpoint that opens the demo's clips."""
    settings = EndpointSettings(**models, clip_roots=[str(tiny_demo[0] / "corpus" / "Raw")], limits={"body_mib": 1})
    with serving(settings, "endpoint") as url:
        yield url


@pytest.fixture
def client(endpoint) -> Client:
    with Client(endpoint) as found:
        yield found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module of an application and thresholds.json."""
    monkeypatch.delitem(sys.modules, "throwaway", raising=False)
    (tmp_path / "throwaway.py").write_text(MODULE)
    (tmp_path / "thresholds.json").write_text('{"tau_small": 0.5, "tau_large": 0.25}')
    return tmp_path
