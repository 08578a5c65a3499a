"""serve_config.yaml: no key is lost, thresholds restart nothing, and a command that comes back has told the truth."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from tests.cluster.chaos import PYTHON, wait_until
from tests.cluster.test_jobs import Head, free_port
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.serving import config_file
from uacs.cluster.serving.config_file import PATH, _ask, cause, deploy, read, with_thresholds
from uacs.errors import BadInput, Refused, WrongUse

MODULE = """
import json
import os

from pydantic import BaseModel, ConfigDict
from ray import serve


class Pool(BaseModel):
    model_config = ConfigDict(extra="forbid")
    replicas: int = 1


class Args(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: int
    pool: Pool = Pool()
    broken: str | None = None
    thresholds: str | None = None


class Endpoint:
    def __init__(self, args):
        if args.broken == "start":
            raise ValueError("no weights in /models/ubm")
        self.version = args.version

    def reconfigure(self, user_config):
        self.tau = user_config["thresholds"]["tau_small"]

    def __call__(self, request):
        return {"version": self.version, "tau": self.tau, "pid": os.getpid()}


def build(args: Args):
    if args.broken == "build":
        raise ValueError("no UBM in /models/ubm")
    options = {"max_surge_percent": 100, "max_constructor_retry_count": 1, "ray_actor_options": {"num_cpus": 0.5}}
    return serve.deployment(Endpoint, name="Endpoint", **options).bind(args)


def anything(args: dict):
    return build(Args(**args))


class Picky:
    def __init__(self, share):
        pass

    def __call__(self, context):
        return 1, {}


nothing = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module of an application and thresholds.json."""
    monkeypatch.delitem(sys.modules, "throwaway", raising=False)
    (tmp_path / "throwaway.py").write_text(MODULE)
    (tmp_path / "thresholds.json").write_text('{"tau_small": 0.5, "tau_large": 0.25}')
    return tmp_path


def application(**changes):
    return {"name": "uacs", "import_path": "throwaway:build", "args": {"version": 1}} | changes


def written(folder, *applications, **top):
    config = top | {"applications": list(applications) or [application()]}
    (folder / "serve_config.yaml").write_text(yaml.safe_dump(config))
    return folder / "serve_config.yaml"


# --- read


def test_the_file_comes_as_it_stands(folder):
    endpoint = {"name": "Endpoint", "max_queued_requests": 8, "user_config": {"any": {"thing": 1}}}
    endpoint |= {"autoscaling_config": {"min_replicas": 1, "max_replicas": 3}}
    endpoint |= {"ray_actor_options": {"num_cpus": 1, "resources": {"any": 1}, "runtime_env": {"env_vars": {"A": "1"}}}}
    top = {"http_options": {"host": "127.0.0.1", "port": 8000}, "logging_config": {"encoding": "JSON"}}
    top |= {"proxy_location": "HeadOnly", "controller_options": {"runtime_env": {"env_vars": {"A": "1"}}}}
    file = written(folder, application(deployments=[endpoint], logging_config={"log_level": "INFO"}), **top)
    config = read(file)
    assert config == yaml.safe_load(file.read_text())
    assert ServeDeploySchema.model_validate(config)
    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"application": []}, "application: unknown; there is proxy_location, http_options"),
        ({"applications": [{"route": "/"}]}, "applications.0.route: unknown; there is name, route_prefix"),
        ({"http_options": {"prot": 1}}, "http_options.prot: unknown; there is host, port"),
        ({"logging_config": {"level": "INFO"}}, "logging_config.level: unknown; there is encoding"),
        ({"applications": [{}, {"logging_config": {"level": 1}}]}, "applications.1.logging_config.level: unknown"),
        ({"applications": [{"runtime_env": {"envvars": {}}}]}, "0.runtime_env.envvars: unknown; there is conda"),
        ({"applications": [{"autoscaling_policy": {"function": "a:b"}}]}, "0.autoscaling_policy.function: unknown"),
        ({1: 2}, "1: unknown"),
    ],
)
def test_a_misspelt_key_is_named_with_those_that_there_are(folder, config, said):
    (folder / "serve_config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(WrongUse) as error:
        read(folder / "serve_config.yaml")
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"max_queued_requets": 3}, "max_queued_requets: unknown; there is name, num_replicas"),
        ({"autoscaling_config": {"max_replica": 3}}, "autoscaling_config.max_replica: unknown; there is min_replicas"),
        ({"autoscaling_config": {"policy": {"kwargs": {}}}}, "autoscaling_config.policy.kwargs: unknown"),
        ({"ray_actor_options": {"num_cpu": 1}}, "ray_actor_options.num_cpu: unknown; there is runtime_env"),
        ({"ray_actor_options": {"runtime_env": {"pipp": []}}}, "ray_actor_options.runtime_env.pipp: unknown"),
        ({"request_router_config": {"class": "x"}}, "request_router_config.class: unknown"),
        ({"backpressure_config": {"status": 429}}, "backpressure_config.status: unknown"),
    ],
)
def test_of_a_deployment_too_though_ray_would_take_it(folder, entry, said):
    file = written(folder, application(), application(name="b", deployments=[{"name": "Endpoint"} | entry]))
    with pytest.raises(WrongUse) as error:
        read(file)
    assert f"serve_config.yaml: applications.1.deployments.0.{said}" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"args": {"version": 1, "pools": {}}}, "0.args.pools: unknown; there is version, pool, broken, thresholds"),
        ({"args": {"version": 1, "pool": {"replica": 2}}}, "0.args.pool.replica: unknown; there is replicas"),
        ({"args": {}}, "applications.0.args.version: Field required"),
        ({"args": {"version": "two"}}, "applications.0.args.version: Input should be a valid integer"),
        ({"logging_config": {"log_level": "LOUD"}}, "applications.0.logging_config.log_level: Value error"),
        ({"deployments": [{"name": "Endpoint", "num_replicas": 0}]}, "0.deployments.0.num_replicas"),
        (
            {"deployments": [{"name": "x", "autoscaling_config": {"max_replicas": 0}}]},
            "autoscaling_config.max_replicas",
        ),
        (
            {"deployments": [{"name": "x", "autoscaling_config": {"policy": {"policy_function": "throwaway:Picky"}}}]},
            "deployments.0.autoscaling_config.policy: cannot be made (TypeError: Picky.__init__() missing",
        ),
        (
            {"deployments": [{"name": "x", "autoscaling_config": {"policy": {"policy_function": "lost:policy"}}}]},
            "serve_config.yaml: cannot be read as Ray does (ModuleNotFoundError: No module named 'lost')",
        ),
        ({"autoscaling_policy": {"policy_function": "throwaway:lost"}}, "0.autoscaling_policy: cannot be made"),
        ({"import_path": "throwaway:lost"}, "applications.0.import_path: throwaway:lost cannot be imported here"),
        ({"import_path": "lost.build"}, "No module named 'lost'); call this where it can be"),
        ({"import_path": "throwaway:nothing"}, "throwaway:nothing builds no application from args"),
    ],
)
def test_what_ray_would_find_on_the_cluster_is_found_here(folder, changes, said):
    with pytest.raises(WrongUse) as error:
        read(written(folder, application(**changes)))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_builder_that_takes_any_args_gets_them(folder):
    assert read(written(folder, application(import_path="throwaway:anything", args={"what": "ever"})))


def test_the_policy_of_the_large_model_can_be_named(folder):
    policy = {"policy_function": "uacs.cluster.serving.scaling:look_ahead"}
    assert read(written(folder, application(deployments=[{"name": "large", "autoscaling_config": {"policy": policy}}])))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("applications: [", "not YAML"),
        ("- a\n", "expected keys and values"),
        ("", "expected keys and values"),
        ("http_options: {}\n", "applications: Field required"),
    ],
)
def test_what_is_no_configuration_says_so_in_a_line(folder, content, said):
    (folder / "serve_config.yaml").write_text(content)
    with pytest.raises((BadInput, WrongUse)) as error:
        read(folder / "serve_config.yaml")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there(folder):
    with pytest.raises(BadInput, match="lost.yaml: cannot be read"):
        read(folder / "lost.yaml")


# --- with_thresholds


def test_thresholds_move_from_args_to_where_they_restart_nothing(folder):
    config = {"applications": [application(args={"version": 1, "thresholds": "thresholds.json"})]}
    moved = with_thresholds(config, folder)
    assert moved["applications"][0]["args"] == {"version": 1}
    (entry,) = moved["applications"][0]["deployments"]
    assert entry["name"] == "Endpoint"
    assert Thresholds.model_validate(entry["user_config"]["thresholds"]).tau_large == 0.25
    assert config["applications"][0]["args"]["thresholds"] == "thresholds.json"


def test_what_the_endpoint_has_besides_stays(folder):
    endpoint = {"name": "Endpoint", "max_queued_requests": 3, "user_config": {"other": 1}}
    config = {"applications": [application(args={"thresholds": str(folder / "thresholds.json")})]}
    config["applications"][0]["deployments"] = [{"name": "large"}, endpoint]
    large, entry = with_thresholds(config, Path("elsewhere"))["applications"][0]["deployments"]
    assert large == {"name": "large"}
    assert entry["max_queued_requests"] == 3 and entry["user_config"].keys() == {"other", "thresholds"}


def test_without_thresholds_nothing_changes(folder):
    config = {"applications": [application(), {"import_path": "a:b"}, application(args=None)]}
    assert with_thresholds(config, folder) == config


def test_thresholds_that_are_not_there_or_twice(folder):
    config = {"applications": [application(args={"thresholds": "lost.json"})]}
    with pytest.raises(BadInput, match="lost.json: no thresholds there"):
        with_thresholds(config, folder)
    config = {"applications": [application(args={"thresholds": "thresholds.json"})]}
    config["applications"][0]["deployments"] = [{"name": "Endpoint", "user_config": {"thresholds": {}}}]
    with pytest.raises(WrongUse, match="leave one of them away"):
        with_thresholds(config, folder)


# --- deploy, to a dashboard that plays back


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
    monkeypatch.setattr(config_file, "EVERY", 0.01)

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


# --- the command


def test_check_looks_at_the_file_alone(folder, uacs):
    file = written(folder, application(args={"version": 1, "thresholds": "thresholds.json"}))
    assert uacs("deploy", file, "--check")[:2] == (0, f"{file}: nothing wrong\n")
    code, _, said = uacs("deploy", written(folder, application(args={"verson": 1})), "--check")
    assert code == 2 and said.startswith("uacs deploy: ") and "args.verson: unknown; there is version" in said
    code, _, said = uacs("deploy", file, "--address", "127.0.0.1:8265", "--check")
    assert code == 2 and "expected the dashboard's, as http://127.0.0.1:8265" in said


@pytest.fixture
def head(folder, monkeypatch):
    """A cluster with token authentication that can import the folder's module."""
    monkeypatch.setenv("PYTHONPATH", str(folder))
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
