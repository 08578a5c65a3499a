"""An application's settings, sent to a cluster, and waited for until what they say answers.

Ray's own command is done before anything is built, and says nothing of what fails then.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from uacs.cluster.serving.config_file import ENDPOINT
from uacs.errors import BadInput, Refused, reason, shown

MADE_OF = ("estimator", "readout", "ubm", "fingerprint", "second_look")  # what thresholds say of their models
PATH = "/api/serve/applications/"
EVERY, ANSWER = 0.5, 30.0  # seconds between two looks, and that one may take
LONGEST = 400  # characters of what Ray says


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
