"""Dashboard and alerts ask for metrics that the code has, by labels that they carry."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.metrics.deployment import DeploymentMetrics
from llamadeploy.metrics.instruments import Family, Kind
from llamadeploy.metrics.worker import WorkerMetrics
from llamadeploy.state_stores.registry import open_store
from llamadeploy_operator import metrics as operator_metrics

CHART = Path(__file__).parents[2] / "helm" / "llamadeploy-operator"
#: Of the scraped target, of histograms, and what a metric's own label is called in the way of it.
TARGET = {"namespace", "pod", "service", "container", "le", "exported_namespace"}
PROCESS = "process_resident_memory_bytes"  # of every Prometheus client
METRIC = re.compile(r"\b((?:llamadeploy|process)_\w+)(?:\{([^}]*)\})?")
GROUPS = re.compile(r"\b(?:by|on) \(([^)]*)\)")


def names(family: Family) -> dict[str, set[str]]:
    """The samples of a family, with their labels."""
    labels = set(family.labels)
    if family.kind is Kind.HISTOGRAM:
        return {f"{family.name}_{part}": labels for part in ("bucket", "sum", "count")}
    return {f"{family.name}_total" if family.kind is Kind.COUNTER else family.name: labels}


@pytest.fixture
async def known() -> dict[str, set[str]]:
    """Every metric of the code with its labels, the operator's too."""
    store, queue = await open_store("memory://", "ns"), LocalMessageQueue()
    metrics = DeploymentMetrics("d")
    families = await metrics.collect(store, queue, "ns", ["s"])
    families += WorkerMetrics("d", "s").families({"done": 1}, 0, 1)
    await store.aclose()
    await queue.aclose()
    found: dict[str, set[str]] = {PROCESS: set()}
    for family in families:
        found |= names(family)
    kinds = {"counter": Kind.COUNTER, "gauge": Kind.GAUGE, "histogram": Kind.HISTOGRAM}
    for metric in vars(operator_metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (about,) = metric.describe()
            labels = tuple(metric._labelnames)
            found |= names(Family(about.name, kinds[about.type], "", labels))
    return found


def check(expression: str, known: dict[str, set[str]]) -> set[str]:
    """The metrics of an expression."""
    used = METRIC.findall(expression)
    assert used, expression
    carried = set(TARGET)
    for name, matchers in used:
        assert name in known, f"{name} is no metric: {expression}"
        asked = set(re.findall(r"(\w+)=", matchers or ""))
        assert asked <= known[name] | TARGET, f"{name} has no label {asked}: {expression}"
        carried |= known[name]
    for group in GROUPS.findall(expression):
        labels = {each.strip() for each in group.split(",")}
        assert labels <= carried, f"no label {labels - carried}: {expression}"
    return {name for name, _ in used}


def test_dashboard(known: dict[str, set[str]], render: Any) -> None:
    objects = render("llamadeploy-operator", "--set", "metrics.dashboard.enabled=true")
    (found,) = [item for item in objects if item["kind"] == "ConfigMap"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(found["data"]["llamadeploy.json"])
    rows = [item["title"] for item in dashboard["panels"] if item["type"] == "row"]
    assert rows == ["Overview", "Tasks", "Waits", "Runs", "Queue depth", "Workers", "Operator"]
    used: set[str] = set()
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or panel["targets"], panel["title"]
        for target in panel.get("targets", ()):
            used |= check(target["expr"].replace("$__rate_interval", "1m"), known)
    for variable in dashboard["templating"]["list"][1:]:
        used |= check(variable["query"], known)
    missing = {re.sub(r"_(sum|count|bucket)$", "", name) for name in known} - {
        re.sub(r"_bucket$", "", name) for name in used
    }
    assert not missing - {"llamadeploy_operator_reconcile_seconds"}, "shown nowhere"
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_alerts(known: dict[str, set[str]], render: Any) -> None:
    objects = render("llamadeploy-operator", "--set", "metrics.prometheusRule.enabled=true")
    (found,) = [item for item in objects if item["kind"] == "PrometheusRule"]
    (service,) = [item["metadata"]["name"] for item in objects if item["kind"] == "Service"]
    groups = {group["name"]: group["rules"] for group in found["spec"]["groups"]}
    assert set(groups) == {"llamadeploy-operator", "llamadeploy"}
    for rule in groups["llamadeploy-operator"]:
        assert f'service="{service}"' in rule["expr"]
    for rules in groups.values():
        for rule in rules:
            check(rule["expr"], known)
            labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            grouped = {each.strip() for each in ",".join(GROUPS.findall(rule["expr"])).split(",")}
            assert labels <= grouped, rule["alert"]
