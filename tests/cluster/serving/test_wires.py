"""What of an endpoint others on the network could reach."""

import psutil
import pytest
from ray import serve

from benchmarks.serving.endpoint import endpoint as process
from uacs.client import Client
from uacs.cluster.resources import Resources
from uacs.cluster.serving.large import application
from uacs.mllm import MllmSettings

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def open_to_others(program: psutil.Process) -> list[str]:
    """Which of its processes listen on other addresses than loopback, once for each port."""
    ours = {one.pid: one.name() for one in (program, *program.children(recursive=True))}
    found = psutil.net_connections("tcp")
    listeners = [one for one in found if one.status == psutil.CONN_LISTEN and one.pid in ours]
    assert listeners  # else nothing was looked at
    return [ours[one.pid] for one in listeners if one.laddr.ip not in LOOPBACK]


def test_nothing_of_ours_listens_to_others(endpoint, client, recorded):
    assert client.predict("good and bad").status == "ok"
    large = application(f"recorded:{recorded}", MllmSettings(), (-3, 3), "en", Resources())
    serve.run(large, name="of-an-evaluation", route_prefix=None)
    try:
        assert open_to_others(psutil.Process()) == []
    finally:
        serve.delete("of-an-evaluation")


@pytest.mark.cluster
def test_two_endpoints_by_haproxy_stand_side_by_side_and_show_others_their_statistics_alone(tiny_demo):
    with process(tiny_demo[0], "--ha-proxy") as first, process(tiny_demo[0], "--ha-proxy") as second:
        for url in (first, second):
            with Client(url) as client:
                assert client.predict("good and bad").status == "ok"
        listening = open_to_others(psutil.Process())
    assert listening == ["haproxy"] * 4
