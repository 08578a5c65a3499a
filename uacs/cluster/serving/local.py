"""An endpoint in the foreground, on the Ray that is there or one of our own, until it is told to stop."""

import re
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from uacs.cluster.resources import nodes_of_ray
from uacs.cluster.serving.application import application
from uacs.cluster.serving.keys import Keys
from uacs.cluster.serving.settings import EndpointSettings
from uacs.cluster.session import note_serve, ray_session
from uacs.errors import BadInput, Refused, reason

NAME = "uacs"
SPARE = 2.0  # seconds beyond the deadline after which Serve's proxy gives a request up


def run(settings: EndpointSettings, host: str, port: int, told: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; what has been taken is finished. `told` hears the address once it answers.

    Raises `Refused` where an endpoint is there already, or a Serve that listens elsewhere or to nobody.
    """
    if settings.keys:
        Keys(settings.keys)
    built = application(settings)  # what is wrong with models and thresholds is said before anything starts
    with ray_session():
        _refuse_small(settings)
        start_http(host, port, settings.limits.deadline)
        if NAME in serve.status().applications:
            there = f"an application '{NAME}' runs on this cluster"
            raise Refused(f"{there}; `uacs deploy` changes it, `serve delete {NAME}` ends it")
        try:
            _deploy(built)
            told(f"http://{host}:{port}")
            _wait_for_end()
        finally:
            with suppress(TimeoutError):  # replicas that finish what they have go on their own
                serve.delete(NAME)


def _wait_for_end() -> None:
    """Until SIGINT or SIGTERM."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stop.wait(0.5):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _deploy(built: Application) -> None:
    try:
        serve.run(built, name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise BadInput(f"the endpoint does not start: {why_not(NAME) or reason(error)}") from error


def why_not(app: str) -> str | None:
    """What keeps an application's deployments from starting, in a line; None if Serve does not say."""
    status = serve.status().applications.get(app)
    for deployment in (status.deployments if status else {}).values():
        if "Traceback" in deployment.message:
            said = [line for line in deployment.message.splitlines() if line and not line.startswith(" ")]
            raised = [line for line in said if re.match(r"[\w.]+: ", line)]
            if raised:
                return re.sub(r"^uacs\.errors\.\w+: ", "", raised[-1])
    return None


def start_http(host: str, port: int, deadline: float) -> None:
    """Serve with a proxy on this node's address; raises `Refused` if one runs elsewhere, or without any.

    What waits in the proxy itself, where no replica sees it, is given up (408) some time after the deadline.
    """
    note_serve()
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=deadline + SPARE),
        logging_config=LoggingConfig(encoding="JSON", enable_access_log=False, log_level="INFO"),
    )
    if not serve.status().proxies:
        raise Refused("the Serve that runs on this cluster has no HTTP; end the evaluation that started it, or wait")
    there = serve.context._get_global_client().http_config  # Serve keeps its first, with no more than a warning
    if (there.host, there.port) != (host, port):
        raise Refused(f"the Serve that runs on this cluster listens on {there.host}:{there.port}; name these")
    if (patience := there.request_timeout_s) and patience <= deadline:
        raise Refused(f"the Serve that runs on this cluster gives a request {patience:g} s; lower limits.deadline")


def _refuse_small(settings: EndpointSettings) -> None:
    """Refuse a plan that would wait for ever for CPUs or GPUs."""
    pools = [settings.endpoint_pool, settings.small_pool, settings.large_pool]
    pools += [settings.verifier_pool] if settings.verifier else []
    nodes = nodes_of_ray()
    for what, key in (("cpus", "CPU"), ("gpus", "GPU")):
        wanted = sum(pool.replicas[0] * getattr(pool, what) for pool in pools)
        have = sum(node.get(key, 0) for node in nodes)
        if wanted > have:
            raise Refused(
                f"the endpoint needs {wanted:g} {key}s, this Ray has {have:g}; lower replicas or their {what}"
            )
