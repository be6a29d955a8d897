"""The Grafana dashboard of the chart: Deployments above, the operator below.

Gauges of a deployment's state are reported by each of its control planes and orchestrators alike,
so their greatest value counts; counters and histograms are added up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

Json = dict[str, Any]

ONE = 'namespace=~"$namespace",deployment=~"$deployment"'
SERVICE = f'{ONE},service=~"$service"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24


def rate(metric: str, labels: str, by: str) -> str:
    """Per second, of a counter."""
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(share: float, metric: str, labels: str, by: str) -> str:
    """Of a histogram."""
    inner = rate(f"{metric}_bucket", labels, f"{by}, le")
    return f"histogram_quantile({share}, {inner})"


def greatest(metric: str, labels: str, by: str) -> str:
    """Of a gauge that several processes report alike."""
    return f"max by ({by}) ({metric}{{{labels}}})"


def added(metric: str, labels: str, by: str) -> str:
    """Of a gauge of which each process has its own share."""
    return f"sum by ({by}) ({metric}{{{labels}}})"


Target = tuple[str, str]
"""Expression and legend."""


def quantiles(metric: str, labels: str, by: str) -> list[Target]:
    """The middle and the slow ones."""
    return [
        (quantile(share, metric, labels, by), f"{{{{{by}}}}} p{round(share * 100)}")
        for share in (0.5, 0.95, 0.99)
    ]


def panel(
    title: str, targets: Sequence[Target], unit: str = "short", text: str = "", **more: Any
) -> Json:
    """One panel; its place comes later."""
    return {
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "targets": [
            {"datasource": SOURCE, "expr": expression, "legendFormat": legend, "refId": chr(65 + n)}
            for n, (expression, legend) in enumerate(targets)
        ],
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        **more,
    }


def stat(title: str, expression: str, unit: str = "short", text: str = "") -> Json:
    """One number."""
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    return panel(title, [(expression, "")], unit, text, type="stat", options=options)


def overview() -> list[Json]:
    """What is up, at one look."""
    ends = "llamadeploy_tasks_total"
    failed = f'sum(rate({ends}{{{SERVICE},outcome="failed"}}[$__rate_interval]))'
    every = f"sum(rate({ends}{{{SERVICE}}}[$__rate_interval]))"
    return [
        stat("Tasks ended", every, "reqps"),
        stat("Failed share", f"{failed} / ({every} > 0) or vector(0)", "percentunit"),
        *(
            stat(
                title, f"sum({greatest(f'llamadeploy_tasks_{name}', ONE, 'namespace, deployment')})"
            )
            for title, name in (
                ("Queued", "queued"),
                ("Running", "in_flight"),
                ("Parked", "parked"),
            )
        ),
        stat(
            "Dead letters in a day",
            f"sum(increase(llamadeploy_dead_letters_total{{{SERVICE}}}[1d]))",
            text="`llamactl dead-letters` lists them.",
        ),
    ]


def tasks() -> list[Json]:
    """What became of tasks."""
    return [
        panel("Tasks ended by outcome", [
            (rate("llamadeploy_tasks_total", SERVICE, "outcome"), "{{outcome}}")], "reqps"),
        panel("Tasks ended by service", [
            (rate("llamadeploy_tasks_total", SERVICE, "service"), "{{service}}")], "reqps"),
        panel("Redeliveries and dead letters", [
            (rate("llamadeploy_redeliveries_total", SERVICE, "service"), "{{service}} redelivered"),
            (rate("llamadeploy_dead_letters_total", SERVICE, "service"), "{{service}} dead"),
        ], "reqps", "Redelivered: an attempt was lost, or failed with retries left."),
    ]  # fmt: skip


def waits() -> list[Json]:
    """Time that tasks wait."""
    return [
        panel("Wait until the first attempt", quantiles(
            "llamadeploy_task_wait_seconds", SERVICE, "service"), "s"),
        panel("Tasks by state", [
            (greatest(f"llamadeploy_tasks_{name}", ONE, "deployment"), f"{{{{deployment}}}} {name}")
            for name in ("queued", "in_flight", "parked")],
            text="Parked: waiting for an event, holding no worker."),
    ]  # fmt: skip


def runs() -> list[Json]:
    """Time that attempts take."""
    return [
        panel("Duration of attempts", quantiles(
            "llamadeploy_task_run_seconds", SERVICE, "service"), "s"),
        panel("Operations of the state store, p95", [
            (quantile(0.95, "llamadeploy_store_operation_seconds", ONE, "operation"),
             "{{operation}}")], "s"),
    ]  # fmt: skip


def queues() -> list[Json]:
    """Messages."""
    depth = "llamadeploy_queue_depth"
    return [
        panel("Queue depth", [
            (greatest(depth, SERVICE, "service, state"), "{{service}} {{state}}")],
            text="Unacked: in the hands of a worker."),
        panel("Tasks whose message has yet to reach the queue", [
            (greatest("llamadeploy_outbox_tasks", ONE, "deployment"), "{{deployment}}")],
            text="More than a few for over a minute: the queue takes no messages."),
    ]  # fmt: skip


def workers() -> list[Json]:
    """Processes that run workflows."""
    return [
        panel("Attempts held, and slots", [
            (added("llamadeploy_worker_tasks_in_flight", SERVICE, "service"), "{{service}} held"),
            (added("llamadeploy_worker_slots", SERVICE, "service"), "{{service}} slots"),
            (added("llamadeploy_worker_tasks_in_custody", SERVICE, "service"),
             "{{service}} in custody")]),
        panel("Workers that the autoscaler wants", [
            (greatest("llamadeploy_autoscaler_desired_replicas", "",
                      "exported_namespace, workflowservice"),
             "{{exported_namespace}}/{{workflowservice}}")]),
        panel("Deliveries by what became of them", [
            (rate("llamadeploy_worker_deliveries_total", SERVICE, "outcome"), "{{outcome}}")],
            "reqps"),
        panel("Memory of pods", [
            ("sum by (pod) (process_resident_memory_bytes * on (namespace, pod) group_left() "
             f"(0 * max by (namespace, pod) (llamadeploy_worker_slots{{{SERVICE}}}) + 1))",
             "{{pod}}")], "bytes"),
    ]  # fmt: skip


def operator() -> list[Json]:
    """The operator's own."""
    return [
        stat("Replicas that work", "sum(llamadeploy_operator_leader)", text="One, and only one."),
        panel("Looks at a resource", quantiles(
            "llamadeploy_operator_reconcile_seconds", "", "kind"), "s"),
        panel("Looks that failed", [
            (rate("llamadeploy_operator_reconcile_errors_total", "", "kind"), "{{kind}}")],
            "reqps"),
        panel("Resources that are due", [
            (greatest("llamadeploy_operator_queue_depth", "", "pod"), "{{pod}}")]),
        panel("Since the last sign of a watch", [
            (greatest("llamadeploy_operator_watch_age_seconds", "", "resource"), "{{resource}}")],
            "s", "Above 50 s a watch is opened anew; at 110 s the pod is restarted."),
    ]  # fmt: skip


def laid_out(rows: Sequence[tuple[str, Sequence[Json]]]) -> Iterator[Json]:
    """Rows and panels with numbers and places."""
    number = count(1)
    below = 0
    for title, panels in rows:
        place = {"h": 1, "w": WIDTH, "x": 0, "y": below}
        yield {"type": "row", "title": title, "id": next(number), "gridPos": place, "panels": []}
        height = 4 if all(each["type"] == "stat" for each in panels) else 8
        width = WIDTH // len(panels)
        for column, each in enumerate(panels):
            place = {"h": height, "w": width, "x": column * width, "y": below + 1}
            yield {**each, "id": next(number), "gridPos": place}
        below += height + 1


def variable(name: str, query: str) -> Json:
    """A choice above the panels; all of them at first."""
    return {
        "name": name, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2,
        "includeAll": True, "multi": True, "allValue": ".*", "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def dashboard() -> Json:
    """All of it, as Grafana imports it."""
    state = "llamadeploy_tasks_queued"
    rows = [
        ("Overview", overview()), ("Tasks", tasks()), ("Waits", waits()), ("Runs", runs()),
        ("Queue depth", queues()), ("Workers", workers()), ("Operator", operator()),
    ]  # fmt: skip
    return {
        "title": "LlamaDeploy",
        "uid": "llamadeploy",
        "tags": ["llamadeploy"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                variable("namespace", f"label_values({state}, namespace)"),
                variable(
                    "deployment",
                    f'label_values({state}{{namespace=~"$namespace"}}, deployment)',
                ),
                variable("service", f"label_values(llamadeploy_tasks_total{{{ONE}}}, service)"),
            ]
        },
        "panels": list(laid_out(rows)),
    }


def text() -> str:
    """``files/dashboard.json``."""
    return json.dumps(dashboard(), indent=1) + "\n"
