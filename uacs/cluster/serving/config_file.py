"""serve_config.yaml: checked to the last key, sent to a cluster, and waited for until what it says answers.

    read(file)                        the file's content; raises for anything that Ray would not heed
    with_thresholds(config, folder)   thresholds as what Serve hands to running replicas
    deploy(config, address, ...)      sent, and waited for

The format is Ray's own (`ServeDeploySchema`), so `serve deploy` and a RayService take the file as well. But Ray lets
most misspelt keys pass, and its command is done before anything is built.
"""

import copy
import importlib
import inspect
import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import ServeDeploySchema

from uacs.cluster.runs import read_thresholds
from uacs.data.places import is_uri
from uacs.errors import BadInput, Refused, UacsError, WrongUse, reason, shown

ENDPOINT = "Endpoint"  # the deployment that takes thresholds on
MADE_OF = ("estimator", "readout", "ubm", "fingerprint", "second_look")  # what thresholds say of their models
PATH = "/api/serve/applications/"
EVERY, ANSWER = 0.5, 30.0  # seconds between two looks, and that one may take
LONGEST = 400  # characters of what Ray says


def read(file: Path) -> dict[str, Any]:
    """The file's content as it stands; raises `BadInput` or `WrongUse` that names the file, the key and the mend.

    import_path must be importable here, from the file's folder or the working directory: what it builds says which
    `args` there are.
    """
    config = _yaml(file)
    _refuse_unknown(file, ServeDeploySchema, config)
    with _importable(file.resolve().parent, Path.cwd()):
        _refuse_values(file, ServeDeploySchema, config)
        for i, application in enumerate(config["applications"]):
            at = f"applications.{i}"
            _refuse_args(file, application, at)
            _refuse_policy(file, application.get("autoscaling_policy"), f"{at}.autoscaling_policy")
            for k, deployment in enumerate(application.get("deployments") or []):
                _refuse_scaling(file, deployment.get("autoscaling_config"), f"{at}.deployments.{k}.autoscaling_config")
    return config


def with_thresholds(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A copy in which `args.thresholds: FILE` is FILE's content, in the user_config of the deployment `Endpoint`.

    Serve builds all replicas anew when `args` change, but hands a user_config alone to those that run. FILE is
    relative to `folder`, or a URI. Raises `BadInput` that names it, and `WrongUse` where there is a content already.
    """
    config = copy.deepcopy(config)
    for application in config["applications"]:
        named = (application.get("args") or {}).get("thresholds")
        if not isinstance(named, str):
            continue
        del application["args"]["thresholds"]
        content = json.loads(read_thresholds(named if is_uri(named) else folder / named).text())
        entry = _entry(application, ENDPOINT)
        if "thresholds" in (entry.get("user_config") or {}):
            raise WrongUse(f"thresholds: in args and in {ENDPOINT}'s user_config; leave one of them away")
        entry["user_config"] = (entry.get("user_config") or {}) | {"thresholds": content}
    return config


def deploy(
    config: dict[str, Any],
    address: str,
    patience: float = 1800,
    told: Callable[[str], None] = print,
    token: str | None = None,
) -> list[str]:
    """Have the cluster whose dashboard is at `address` serve this and nothing else; returns where it answers.

    Comes back once all of it runs in the version sent. `told` hears what changes meanwhile. Raises `BadInput` with
    what Ray says where it cannot run, and what still answers; `Refused` after `patience` seconds, or where Ray
    would not heed the file.
    """
    end = time.monotonic() + patience
    ask = partial(_ask, f"{address.rstrip('/')}{PATH}", token)
    before = ask("GET", timeout=ANSWER)
    _refuse_other_http(before, config, address)
    _refuse_other_models(before, config)
    names = [application.get("name", "default") for application in config["applications"]]
    for name, there in before["applications"].items():
        if name not in names and there["source"] == "declarative":
            told(f"{name}: goes, since the file does not name it")
    ask("PUT", config, timeout=max(end - time.monotonic(), 1))
    return [*_addresses(_settled(ask, before, names, end, told), names, address)]


# --- the file


def _yaml(file: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(config, dict):
        raise BadInput(f"{file}: expected keys and values, as Ray's `serve build` writes them")
    return config


def _refuse_unknown(file: Path, kind: Any, value: Any, at: str = "") -> None:
    """Refuse a key that the models within an annotation do not have, at any depth."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_unknown(file, kind, item, f"{at}{i}.")
    models = [*_models(kind)]
    if not isinstance(value, dict) or not models:
        return
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    fields |= {field.alias: field for field in fields.values() if field.alias}
    for key, item in value.items():
        if key not in fields:
            raise WrongUse(f"{file}: {at}{shown(key)}: unknown; there is {', '.join(fields)}")
        _refuse_unknown(file, STRICTER.get(key, fields[key].annotation), item, f"{at}{key}.")
        if key == "runtime_env" and (unknown := (item or {}).keys() - RuntimeEnv.known_fields):
            known = ", ".join(sorted(field for field in RuntimeEnv.known_fields if not field.startswith("_")))
            raise WrongUse(f"{file}: {at}{key}.{shown(min(unknown, key=str))}: unknown; there is {known}")


STRICTER = {"autoscaling_policy": AutoscalingPolicy}  # which Ray's schema has as any dictionary


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value of this type may be, or a list of; a dictionary has what keys it likes."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not dict:
        for argument in get_args(annotation):
            yield from _models(argument)


def _refuse_values(file: Path, kind: type[BaseModel], value: Any, at: str = "") -> None:
    try:
        kind.model_validate(copy.deepcopy(value))  # some of Ray's validators write into it
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(filter(None, (at, *map(str, first["loc"]))))
        known = f"; there is {', '.join(kind.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise WrongUse(": ".join(filter(None, (str(file), place, first["msg"] + known)))) from None
    except Exception as error:  # of a policy's module, which Ray imports to see whether it is one
        raise WrongUse(f"{file}: cannot be read as Ray does ({type(error).__name__}: {reason(error)})") from None


def _refuse_args(file: Path, application: dict[str, Any], at: str) -> None:
    """Hold `args` against the model that the builder wants, as Ray will on the cluster."""
    builder, args = _attribute(file, application["import_path"], f"{at}.import_path"), application.get("args") or {}
    if isinstance(builder, Application):
        if args:
            raise WrongUse(f"{file}: {at}.args: {application['import_path']} is built already and takes none")
        return
    parameters = [*inspect.signature(builder).parameters.values()] if inspect.isfunction(builder) else []
    if len(parameters) != 1:
        raise WrongUse(f"{file}: {at}.import_path: {application['import_path']} builds no application from args")
    kind = parameters[0].annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        _refuse_unknown(file, kind, args, f"{at}.args.")
        _refuse_values(file, kind, args, f"{at}.args")


def _refuse_scaling(file: Path, scaling: Any, at: str) -> None:
    """Ray's schema takes any dictionary here, and its controller meets what is wrong with it."""
    if isinstance(scaling, dict):
        _refuse_values(file, AutoscalingConfig, {k: v for k, v in scaling.items() if k != "policy"}, at)
        _refuse_policy(file, scaling.get("policy"), f"{at}.policy")


def _refuse_policy(file: Path, policy: Any, at: str) -> None:
    """A policy that cannot be made stops the controller's care for all applications."""
    if policy is None:
        return
    try:
        made = AutoscalingPolicy(**policy)
        if inspect.isclass(found := made.get_policy()):
            found(**made.policy_kwargs)
    except Exception as error:
        raise WrongUse(f"{file}: {at}: cannot be made ({type(error).__name__}: {reason(error)})") from None


def _attribute(file: Path, path: str, at: str) -> Any:
    """What MODULE:NAME names, here."""
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except UacsError:
        raise
    except Exception as error:
        raise WrongUse(
            f"{file}: {at}: {path} cannot be imported here ({type(error).__name__}: {reason(error)}); "
            "call this where it can be, or put its folder on PYTHONPATH"
        ) from None


@contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    """As if Python had been started in these folders."""
    before = sys.path[:]
    sys.path[:0] = map(str, folders)
    try:
        yield
    finally:
        sys.path[:] = before


def _entry(application: dict[str, Any], name: str) -> dict[str, Any]:
    """The application's settings of a deployment, made if there are none."""
    application["deployments"] = application.get("deployments") or []
    for entry in application["deployments"]:
        if entry["name"] == name:
            return entry
    application["deployments"].append({"name": name})
    return application["deployments"][-1]


# --- the cluster


def _ask(url: str, token: str | None, method: str, body: Any = None, *, timeout: float) -> Any:
    """What Ray's dashboard answers; raises `Refused` where it will not, `_Silent` where there is no answer."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body, default=str).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            said = reply.read()
        return json.loads(said) if said else None
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise Refused(
                f"{url}: the cluster wants its token ({error.code}); set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            ) from None
        if error.code == 503 or method == "GET":
            raise _Silent(f"{url}: Ray cannot answer now ({error.code}); try again") from None
        raise Refused(f"{url}: Ray does not take it ({cause(error.read().decode(errors='replace'))})") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)  # of an URLError
        why = reason(why) if isinstance(why, BaseException) else why
        raise _Silent(f"{url}: no Ray cluster answers there ({why}); start one, or name its dashboard") from None


class _Silent(BadInput):
    """There is no answer, now."""


def _refuse_other_http(there: dict[str, Any], config: dict[str, Any], address: str) -> None:
    """A Serve that runs keeps its address until it is shut down, whatever it is sent."""
    mend = f"`serve shutdown --address {address}` first (all applications go)"
    running, wanted = there.get("http_options") or {}, config.get("http_options") or {}
    for key in wanted.keys() & running.keys():
        if wanted[key] != running[key]:
            raise Refused(
                f"http_options.{key}: is {shown(wanted[key])}, and Serve runs there with {shown(running[key])}, "
                f"which it keeps; have the file say so, or {mend}"
            )
    if there.get("proxy_location") == "Disabled" and any(
        application.get("route_prefix", "/") is not None for application in config["applications"]
    ):
        raise Refused(f"the Serve that runs there has no HTTP, as evaluations start it; {mend}")


def _refuse_other_models(there: dict[str, Any], config: dict[str, Any]) -> None:
    """Of models that stay, thresholds of others would stop the replicas that run: Serve has no way back from there."""
    for application in config["applications"]:
        name = application.get("name", "default")
        now = there["applications"].get(name, {}).get("deployed_app_config") or {}
        if (now.get("args") or {}) != (application.get("args") or {}):
            continue
        old, new = _thresholds(now), _thresholds(application)
        for what in MADE_OF:
            if old.get(what) and new.get(what) and old[what] != new[what]:
                raise Refused(
                    f"{name}: the thresholds were made with {what} {shown(new[what])}, those that it has with "
                    f"{shown(old[what])}, and its models stay as args do; name others there, or calibrate with these"
                )


def _thresholds(application: dict[str, Any]) -> dict[str, Any]:
    """What `with_thresholds` has put into an application's settings."""
    entries = [entry for entry in application.get("deployments") or [] if entry["name"] == ENDPOINT]
    return (entries[0].get("user_config") or {}).get("thresholds") or {} if entries else {}


def _settled(
    ask: Callable[..., Any], before: dict[str, Any], names: list[str], end: float, told: Callable[[str], None]
) -> dict[str, Any]:
    """What Ray says once all applications run in the version sent; raises if they cannot, or do not by `end`."""
    sent: dict[str, float] = {}
    said = ""
    while time.monotonic() < end:
        try:
            after = ask("GET", timeout=ANSWER)
        except _Silent as error:  # a controller that is busy, or comes up again
            now, after = f"waiting: {error}", None
        else:
            there = {name: after["applications"][name] for name in names if name in after["applications"]}
            _refuse_others(before["applications"], there, sent)
            for name in there:
                _refuse_failed(name, before["applications"].get(name), there[name])
            now = _progress(after, there, names)
        if now == "":
            return after
        if now != said:
            told(now)
        said = now
        time.sleep(EVERY)
    raise Refused(f"{said or 'Serve starts'}: not done in time; Ray goes on trying, see `serve status`")


def _refuse_others(before: dict[str, Any], there: dict[str, Any], sent: dict[str, float]) -> None:
    """What was deployed before or after us is not ours to wait for."""
    for name, application in there.items():
        when = application["last_deployed_time_s"]
        if name in before and before[name]["last_deployed_time_s"] == when:
            raise Refused(f"{name}: Ray has not taken it on, as when Serve shuts down; deploy again")
        if sent.setdefault(name, when) != when:
            raise Refused(f"{name}: somebody else has deployed meanwhile; see `serve status`, and deploy again")


def _refuse_failed(name: str, before: dict[str, Any] | None, after: dict[str, Any]) -> None:
    """Raise what Ray says of an application that cannot run, and of what is left of it."""
    bad = ("DEPLOY_FAILED", "UNHEALTHY")
    if after["status"] not in bad:
        return
    said = {f"{name}, {k}": cause(d["message"]) for k, d in after["deployments"].items() if d["status"] in bad}
    why = "; ".join(f"{place}: {text}" for place, text in (said or {name: cause(after["message"])}).items())
    raise BadInput(f"{why}; {_left(before, after)}")


def _left(before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    """What answers when a version has failed."""
    same = "the version that was there before still answers"
    if before and not after["deployments"]:  # it could not be built, and Ray has touched nothing
        return same if before["status"] == "RUNNING" else "what was there before is as it was"
    running = [
        [replica["start_time_s"] for replica in deployment["replicas"] if replica["state"] == "RUNNING"]
        for deployment in after["deployments"].values()
    ]
    if not running or not all(running):
        return "nothing answers now: mend it and deploy again"
    earlier = all(min(times) < after["last_deployed_time_s"] for times in running)
    return same if earlier else "some of the new version answers: mend the rest"


def _progress(after: dict[str, Any], there: dict[str, Any], names: list[str]) -> str:
    """What is still to come, in a line; empty if all of it is there."""
    waiting = []
    for name in names:
        if name not in there or there[name]["status"] != "RUNNING":
            deployments = there.get(name, {}).get("deployments", {}).values()
            parts = [_part(deployment) for deployment in deployments if deployment["status"] != "HEALTHY"]
            waiting.append(f"{name}: {', '.join(parts) or ('changes' if deployments else 'is built')}")
    starting = [proxy for proxy in (after.get("proxies") or {}).values() if proxy["status"] == "STARTING"]
    return "; ".join(waiting) or ("HTTP starts" if starting else "")


def _part(deployment: dict[str, Any]) -> str:
    running = sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])
    said = f" ({cause(deployment['message'])})" if deployment["message"] else ""
    return (
        f"{deployment['name']} {deployment['status'].lower()}, "
        f"{running} of {deployment['target_num_replicas']} running{said}"
    )


def _addresses(after: dict[str, Any], names: list[str], address: str) -> Iterator[str]:
    http = after.get("http_options") or {}
    host = http.get("host", "0.0.0.0")
    host = urlsplit(address).hostname if host in ("0.0.0.0", "::") else host
    scheme = "https" if http.get("ssl_certfile") else "http"
    for name in names:
        prefix = after["applications"][name]["route_prefix"]
        where = "answers to Ray alone" if prefix is None else f"{scheme}://{host}:{http.get('port', 8000)}{prefix}"
        yield f"{name}: {where}"


def cause(said: str) -> str:
    r"""What lies at the bottom of a message of Ray's, in one line: it brings tracebacks of tracebacks.

    >>> cause("Deploying app 'uacs' failed:\nTraceback ...\n  File ...\nuacs.errors.BadInput: models/ubm: no UBM there")
    'models/ubm: no UBM there'
    >>> cause("1 replica waits for {'CPU': 4}.\nSee the docs")
    "1 replica waits for {'CPU': 4}. See the docs"
    """
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines() if line.strip()]
    raised = [i for i, line in enumerate(lines) if re.match(r"[A-Za-z_][\w.]*: ", line)]
    if raised and "Traceback" in said:
        lines = lines[raised[-1] :]
        lines[0] = re.sub(r"^(uacs\.errors\.\w+: |pydantic_core\._pydantic_core\.)", "", lines[0])
    return shown(" ".join(line.strip() for line in lines), LONGEST)
