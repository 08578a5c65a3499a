"""The dashboard and the alerts, checked offline: they ask only for what is exported, by the labels that it has."""

import copy
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from ray.serve.metrics import Counter, Gauge, Histogram

from uacs.cluster.serving.watch import METRICS

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())

KINDS = {Counter: "counter", Histogram: "histogram", Gauge: "gauge"}
OURS = {name: (KINDS[kind], set(tags)) for name, (kind, tags) in METRICS.items()}
SERVES = {
    "serve_deployment_replica_healthy": ("gauge", set()),
    "serve_deployment_queued_queries": ("gauge", set()),
    "serve_replica_processing_queries": ("gauge", set()),
}
BY_SERVE = {"application", "deployment", "replica"}  # which Serve adds to whatever is counted in a replica
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
EXPORTED = {
    f"ray_{name}{suffix}": labels | BY_SERVE | ({"le"} if suffix == "_bucket" else set())
    for name, (kind, labels) in (OURS | SERVES).items()
    for suffix in SUFFIXES[kind]
}

WORDS = {"sum", "max", "avg", "rate", "increase", "histogram_quantile", "vector", "or"}  # of PromQL, as used here


def query_faults(query: str) -> Iterator[str]:
    """A query in PromQL: names that nobody exports, labels that they lack, counters that are read as they are."""
    blocks, groups = re.findall(r"\{(.*?)\}", query), re.findall(r"\bby \((.*?)\)", query)
    labels = {label for block in blocks for label in re.findall(r"(\w+)\s*!?=", block)}
    labels |= {label.strip() for group in groups for label in group.split(",")}
    bare = re.sub(r"\{.*?\}|\[.*?\]|\bby \(.*?\)", "", query)
    names = [name for name in re.findall(r"\b[a-z]\w*", bare) if name not in WORDS]
    if not names:
        yield f"{query}: asks for nothing"
    for name in names:
        if name not in EXPORTED:
            yield f"{name}: nobody exports that"
        elif missing := labels - EXPORTED[name]:
            yield f"{name}: has no label {', '.join(sorted(missing))}"
        elif name.endswith(("_total", "_bucket")) and not re.search(rf"(rate|increase)\({name}[^)]*\[", query):
            yield f"{name}: only ever grows; ask for its rate"
        elif name.endswith("_bucket") and "le" not in labels:
            yield f"{name}: its buckets are mixed"


def dashboard_faults(dashboard: dict) -> Iterator[str]:
    """What Grafana would show wrongly or not at all."""
    panels = dashboard["panels"]
    shown = [panel for panel in panels if panel["type"] != "row"]
    if len({panel["id"] for panel in panels}) < len(panels):
        yield "two panels have one id"
    for one, two in combinations(panels, 2):
        a, b = one["gridPos"], two["gridPos"]
        if all(a[at] < b[at] + b[side] and b[at] < a[at] + a[side] for at, side in (("x", "w"), ("y", "h"))):
            yield f"{one['title']}, {two['title']}: one covers the other"
    for panel in panels:
        if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
            yield f"{panel['title']}: is wider than the page"
    for panel in shown:
        if not panel.get("description"):
            yield f"{panel['title']}: says nothing of what it shows"
        for asked in (panel, *panel["targets"]):
            if asked["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
                yield f"{panel['title']}: asks a data source of its own"
        for target in panel["targets"]:
            yield from (f"{panel['title']}: {fault}" for fault in query_faults(target["expr"]))
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(panels)))
    yield from (f"${name}: no such variable" for name in sorted(used - variables.keys()))
    yield from query_faults(
        re.sub(r"label_values\((\w+), \w+\)", r"rate(\1[5m])", variables["application"]["definition"])
    )


def alert_faults(rules: dict) -> Iterator[str]:
    """What Prometheus would take and nobody could act on."""
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        yield from (f"{rule['alert']}: {fault}" for fault in query_faults(rule["expr"]))
        if not re.search(r"[<>]=? [\d.]+$", rule["expr"]):
            yield f"{rule['alert']}: compares with nothing"
        if not re.fullmatch(r"\d+[smh]", rule.get("for", "")):
            yield f"{rule['alert']}: does not wait"
        for note in ("summary", "description"):
            if not rule["annotations"].get(note):
                yield f"{rule['alert']}: has no {note}"
        panels = {panel["title"] for panel in DASHBOARD["panels"]}
        for named in re.findall(r'[Pp]anel "(.+?)"', rule["annotations"].get("description", "")):
            if not any(title.startswith(named) for title in panels):
                yield f"{rule['alert']}: there is no panel {named}"


def test_the_dashboard_asks_for_what_there_is():
    assert list(dashboard_faults(DASHBOARD)) == []


def test_the_alerts_ask_for_what_there_is():
    assert list(alert_faults(ALERTS)) == []


def test_whatever_is_exported_is_shown():
    asked = json.dumps(DASHBOARD["panels"])
    assert [name for name in OURS | SERVES if f"ray_{name}" not in asked] == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sum(rate(ray_uacs_requests[5m]))", "nobody exports"),
        ("sum(rate(uacs_requests_total[5m]))", "nobody exports"),
        ("max(ray_uacs_drift_psi_total)", "nobody exports"),
        ("ray_uacs_secnds_count", "nobody exports"),
        ('sum(rate(ray_uacs_requests_total{status="200"}[5m]))', "no label status"),
        ("sum by (model) (rate(ray_uacs_answers_total[5m]))", "no label model"),
        ("sum by (le) (rate(ray_uacs_seconds_count[5m]))", "no label le"),
        ("sum(ray_uacs_requests_total)", "ask for its rate"),
        ("histogram_quantile(0.5, sum(rate(ray_uacs_seconds_bucket[5m])))", "buckets are mixed"),
        ("sum(up)", "up: nobody exports"),
        ("sum(vector(0))", "asks for nothing"),
    ],
)
def test_a_fault_in_a_query_is_found(query, said):
    assert said in "\n".join(query_faults(query))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda panel: panel.pop("description"), "says nothing"),
        (lambda panel: panel["gridPos"].update(x=4), "one covers the other"),
        (lambda panel: panel["gridPos"].update(x=21), "wider"),
        (lambda panel: panel.update(id=2), "one id"),
        (lambda panel: panel.update(datasource={"type": "prometheus", "uid": "mine"}), "a data source of its own"),
        (lambda panel: panel["targets"][0].update(expr="up{a=$where}"), "$where: no such variable"),
    ],
)
def test_a_fault_in_the_dashboard_is_found(change, said):
    dashboard = copy.deepcopy(DASHBOARD)
    change(dashboard["panels"][0])
    assert said in "\n".join(dashboard_faults(dashboard))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("expr", "max(ray_uacs_drift_alarm)", "compares with nothing"),
        ("for", "soon", "does not wait"),
        ("annotations", {"summary": "x", "description": 'Panel "Fog" tells.'}, "no panel Fog"),
        ("annotations", {"summary": "x"}, "no description"),
    ],
)
def test_a_fault_in_the_alerts_is_found(key, value, said):
    rules = copy.deepcopy(ALERTS)
    rules["groups"][0]["rules"][0][key] = value
    assert said in "\n".join(alert_faults(rules))


def test_serve_still_has_the_metrics_that_are_shown():
    """In its source, as nothing lists them; a gauge or histogram there is what is taken for one here."""
    folder = Path(importlib.util.find_spec("ray").origin).parent / "serve"
    places = ("batching.py", "_private/router.py", "_private/deployment_state.py", "_private/replica.py")
    source = "\n".join((folder / place).read_text() for place in places)
    for name, (kind, _) in SERVES.items():
        assert re.search(rf'{kind.capitalize()}\(\s*"{name}"', source), name


NAMES = """
from prometheus_client import REGISTRY, generate_latest
from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder
recorder = OpenTelemetryMetricRecorder()
recorder.register_counter_metric("a_counter", "")
recorder.register_gauge_metric("a_gauge", "")
recorder.register_histogram_metric("a_histogram", "", [1.0])
for name in ("a_counter", "a_gauge", "a_histogram"):
    recorder.set_metric_value(name, {"why": "full"}, 0.5)
print(generate_latest(REGISTRY).decode())
"""


def test_ray_names_what_it_exports_as_is_believed_here():
    """What its agent does with a counter, a gauge and a histogram; in a process of its own, as it is global there."""
    said = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"^(ray_a_\w+)\{.*why=\"full\"", said, re.MULTILINE))
    assert named == {f"ray_a_{kind}{suffix}" for kind, suffixes in SUFFIXES.items() for suffix in suffixes}
