"""A version that is sent to a cluster: thresholds restart nothing, and a command that comes back has told the truth."""

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.cluster.chaos import PYTHON, wait_until
from tests.cluster.serving.throwaway import application, written
from tests.cluster.test_jobs import Head, free_port
from uacs.client import Client
from uacs.cluster.serving import rollout
from uacs.cluster.serving.config_file import read, with_thresholds
from uacs.cluster.serving.rollout import PATH, _ask, cause, deploy
from uacs.errors import BadInput, Refused

# --- a dashboard that plays back


class Dashboard:
    """Answers GET with one of `details` after the other, the last again and again; 503 for None."""

    def __init__(self):
        self.details, self.refusal, self.asked = [NOTHING], None, []

    def answer(self, method, body, headers):
        self.asked.append((method, body, headers.get("Authorization")))
        if self.refusal and (method, self.refusal[0]) in (("PUT", 400), ("GET", 401)):
            return self.refusal
        if method == "PUT":
            return 200, b""
        details = self.details.pop(0) if len(self.details) > 1 else self.details[0]
        return (503, b"the GCS may be down") if details is None else (200, json.dumps(details).encode())


NOTHING = {"controller_info": {}, "proxies": {}, "applications": {}}


@pytest.fixture
def dashboard(monkeypatch):
    played = Dashboard()
    monkeypatch.setattr(rollout, "EVERY", 0.01)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, said = played.answer(self.command, json.loads(body) if body else None, self.headers)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(said)

        do_PUT = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    played.url = f"http://127.0.0.1:{server.server_port}"
    yield played
    server.shutdown()
    server.server_close()


def deployment(status="HEALTHY", started=(1.5,), message="", state="RUNNING"):
    return {
        "name": "Endpoint",
        "status": status,
        "message": message,
        "target_num_replicas": 1,
        "replicas": [{"start_time_s": when, "state": state} for when in started],
    }


def details(status="RUNNING", when=2.0, message="", deployments=None, **more):
    deployments = {"Endpoint": deployment()} if deployments is None else deployments
    app = {"status": status, "last_deployed_time_s": when, "message": message, "deployments": deployments}
    app |= {"source": "declarative", "route_prefix": "/"}
    return {
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "proxies": {"node": {"status": "HEALTHY"}},
        "applications": {"uacs": app},
    } | more


BEFORE = details(when=1.0)
CONFIG = {"applications": [application()]}


def deployed(dashboard, *answers, config=CONFIG, **options):
    dashboard.details, told = list(answers), []
    return deploy(config, dashboard.url + "/", told=told.append, **{"patience": 20} | options), told


def refused(dashboard, *answers, **options):
    with pytest.raises((BadInput, Refused)) as error:
        deployed(dashboard, *answers, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_comes_back_once_the_new_version_answers(dashboard):
    updating = {"Endpoint": deployment("UPDATING", message="Retrying.")}
    where, told = deployed(
        dashboard,
        BEFORE,
        details("DEPLOYING", deployments={}),
        details("DEPLOYING"),
        None,
        details("DEPLOYING", deployments=updating),
        details("DEPLOYING", deployments=updating),
        details(proxies={"node": {"status": "STARTING"}}),
        details(),
    )
    assert where == ["uacs: http://127.0.0.1:8000/"]
    assert told[:2] == ["uacs: is built", "uacs: changes"] and "503" in told[2]
    assert told[3:] == ["uacs: Endpoint updating, 1 of 1 running (Retrying.)", "HTTP starts"]
    assert [(method, body) for method, body, _ in dashboard.asked if method == "PUT"] == [("PUT", CONFIG)]


def test_what_the_file_does_not_name_is_said_to_go(dashboard):
    other = {"source": "declarative", "status": "RUNNING"} | details()["applications"]["uacs"]
    run = dict(other, source="imperative")
    before = NOTHING | {"applications": {"old": other, "uacs-run-1": run}}
    assert deployed(dashboard, before, details())[1] == ["old: goes, since the file does not name it"]


def test_where_it_answers(dashboard):
    everywhere = details(http_options={"host": "0.0.0.0", "port": 80, "ssl_certfile": "c"})
    assert deployed(dashboard, NOTHING, everywhere)[0] == ["uacs: https://127.0.0.1:80/"]
    by_handle = details()
    by_handle["applications"]["uacs"]["route_prefix"] = None
    assert deployed(dashboard, NOTHING, by_handle)[0] == ["uacs: answers to Ray alone"]


TRACE = "Failed:\nTraceback (most recent call last):\n  File 'x'\nValueError: no UBM there\n"


def test_a_version_that_cannot_be_built_leaves_the_one_before(dashboard):
    failed = details("DEPLOY_FAILED", message=TRACE, deployments={})
    assert refused(dashboard, BEFORE, failed) == (
        "uacs: ValueError: no UBM there; the version that was there before still answers"
    )
    assert "nothing answers now" in refused(dashboard, NOTHING, failed)
    assert "as it was" in refused(dashboard, details("DEPLOY_FAILED", 1.0), failed)


@pytest.mark.parametrize(
    ("started", "state", "said"),
    [
        ((1.5,), "RUNNING", "the version that was there before still answers"),
        ((2.5, 1.5), "RUNNING", "the version that was there before still answers"),
        ((2.5,), "RUNNING", "some of the new version answers"),
        ((1.5,), "STOPPING", "nothing answers now"),
        ((), "RUNNING", "nothing answers now"),
    ],
)
def test_what_is_left_of_a_version_that_cannot_start_is_what_runs(dashboard, started, state, said):
    failed = {"Endpoint": deployment("DEPLOY_FAILED", started, TRACE, state)}
    text = refused(dashboard, BEFORE, details("DEPLOY_FAILED", message="Failed to update.", deployments=failed))
    assert text.startswith("uacs, Endpoint: ValueError: no UBM there; ") and said in text


def test_patience_ends(dashboard):
    waits = {"Endpoint": deployment("UPDATING", message="1 replica waits for {'CPU': 4}.")}
    assert refused(dashboard, BEFORE, details("DEPLOYING", deployments=waits), patience=0.3) == (
        "uacs: Endpoint updating, 1 of 1 running (1 replica waits for {'CPU': 4}.): not done in time; "
        "Ray goes on trying, see `serve status`"
    )


def test_another_deploy_in_between_is_not_taken_for_ours(dashboard):
    assert "somebody else has deployed" in refused(dashboard, BEFORE, details("DEPLOYING"), details(when=3.0))
    assert "has not taken it on" in refused(dashboard, BEFORE, BEFORE)


def test_http_that_ray_would_not_change_is_refused(dashboard):
    config = CONFIG | {"http_options": {"host": "127.0.0.1", "port": 9000}}
    text = refused(dashboard, BEFORE, config=config)
    assert text.startswith("http_options.port: is 9000, and Serve runs there with 8000")
    assert "no HTTP" in refused(dashboard, BEFORE | {"proxy_location": "Disabled"})
    by_handle = {"applications": [application(route_prefix=None)]}
    assert deployed(dashboard, BEFORE | {"proxy_location": "Disabled"}, details(), config=by_handle)
    assert len([method for method, *_ in dashboard.asked if method == "PUT"]) == 1


def test_thresholds_of_other_models_do_not_reach_replicas_that_run(dashboard):
    def config(**made):
        entry = {"name": "Endpoint", "user_config": {"thresholds": {"tau_small": 1, "tau_large": 1} | made}}
        return {"applications": [application(deployments=[entry])]}

    before = details(when=1.0)
    before["applications"]["uacs"]["deployed_app_config"] = config(ubm="a", readout="trie")["applications"][0]
    text = refused(dashboard, before, config=config(ubm="b", readout="trie"))
    assert text.startswith("uacs: the thresholds were made with ubm b, those that it has with a")
    assert {method for method, *_ in dashboard.asked} == {"GET"}
    assert deployed(dashboard, before, details(), config=config(ubm="a"))
    other = config(ubm="b")
    other["applications"][0]["args"] = {"version": 2}
    assert deployed(dashboard, before, details(), config=other)


def test_the_token_goes_along(dashboard):
    deployed(dashboard, NOTHING, details(), token="secret")
    assert {token for *_, token in dashboard.asked} == {"Bearer secret"}
    dashboard.refusal = (401, b"Unauthorized")
    assert "the cluster wants its token (401)" in refused(dashboard, NOTHING)


def test_what_ray_refuses_is_said_in_a_line(dashboard):
    dashboard.refusal = (400, b"1 validation error\napplications\n  too few")
    assert "(1 validation error applications too few)" in refused(dashboard, NOTHING)


def test_a_cluster_that_is_not_there():
    with pytest.raises(BadInput, match=r"no Ray cluster answers there \(.*refused\)"):
        deploy(CONFIG, f"http://127.0.0.1:{free_port()}")


def test_the_cause_is_at_the_bottom_and_terminals_obey_none_of_it():
    said = f"\x1b[36mray::build()\x1b[39m\n{TRACE}\nIt led to:\nTraceback\nuacs.errors.Refused: other \x07 model\n"
    assert cause(said) == "other \\x07 model"
    assert len(cause("x" * 9999)) < 500


# --- a real cluster


@pytest.fixture
def head(folder, monkeypatch):
    """A cluster with token authentication that can import the folder's module."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.getcwd()]))
    scratch = tempfile.mkdtemp(prefix="d", dir="/tmp")
    head = Head(scratch)
    try:
        wait_until(lambda: up(head), 90)
        yield head
    finally:
        with suppress(BadInput):  # a node that has work ends half a minute later
            _ask(head.url + PATH, head.environment["RAY_AUTH_TOKEN"], "DELETE", timeout=60)
        head.stop()
        shutil.rmtree(scratch)


def up(head):
    try:
        return head.get(head.url + PATH)
    except OSError:
        return None


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_an_endpoint_takes_thresholds_on_while_it_answers(head, folder, recordings):
    port = free_port()

    def sent(**thresholds):
        (folder / "thresholds.json").write_text(json.dumps(thresholds))
        args = recordings | {"thresholds": "thresholds.json"}
        app = application(import_path="serve_app:build_app", args=args)
        file = written(folder, app, http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
        said = deploy(with_thresholds(read(file), folder), head.url, token=head.environment["RAY_AUTH_TOKEN"])
        assert said == [f"uacs: http://127.0.0.1:{port}/"]

    sent(tau_small=0.5, tau_large=0.5)
    before, codes, stop = replicas(head), [], threading.Event()
    with Client(f"http://127.0.0.1:{port}", retries=0) as client:
        assert client.info().tau_small == 0.5 and client.predict("good and bad").tau_small == 0.5

        def ask():
            while not stop.is_set():
                codes.append(client.predict("good and bad", max_stage="small").status)

        asking = threading.Thread(target=ask)
        asking.start()
        sent(tau_small=0.75, tau_large=0.25)
        stop.set()
        asking.join()
        wait_until(lambda: client.info().tau_small == 0.75, 10)
        assert client.predict("good and bad").tau_large == 0.25
    assert replicas(head) == before and set(codes) == {"ok"}


def replicas(head) -> set[str]:
    """Ids of all replicas that run."""
    apps = json.loads(head.get(head.url + PATH))["applications"].values()
    return {r["replica_id"] for app in apps for d in app["deployments"].values() for r in d["replicas"]}


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_what_the_command_says_is_so(head, folder):
    port = free_port()

    def sent(token=head.environment["RAY_AUTH_TOKEN"], **args):
        args = {"version": 1, "thresholds": "thresholds.json"} | args
        http = {"host": "127.0.0.1", "port": port}
        file = written(folder, application(args=args), http_options=http, proxy_location="HeadOnly")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_AUTH_TOKEN": token}
        command = [*PYTHON, "deploy", str(file), "--address", head.url, "--timeout", "180"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr.splitlines()

    def asked():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            return json.load(answer)

    code, said, _ = sent()
    assert (code, said) == (0, f"uacs: http://127.0.0.1:{port}/\n")
    first = asked()
    assert (first["version"], first["tau"]) == (1, 0.5)

    (folder / "thresholds.json").write_text('{"tau_small": 0.75, "tau_large": 0.25}')
    began = time.monotonic()
    assert sent()[0] == 0 and time.monotonic() - began < 60
    assert asked() == first | {"tau": 0.75}

    assert sent(version=2)[0] == 0
    second = asked()
    assert second["version"] == 2 and second["pid"] != first["pid"]

    reasons = {"build": "uacs: ValueError: no UBM in", "start": "uacs, Endpoint: ValueError: no weights in"}
    for broken, why in reasons.items():
        code, _, said = sent(version=3, broken=broken)
        assert code == 1, said
        assert said[-1] == f"uacs deploy: {why} /models/ubm; the version that was there before still answers"
        assert asked() == second

    code, _, said = sent(token="0" * 32)
    assert code == 1 and "the cluster wants its token (403)" in said[-1]
