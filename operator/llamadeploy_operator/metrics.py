"""The operator's metrics; names as in ``docs/operator.md``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

RECONCILE_SECONDS = Histogram(
    "llamadeploy_operator_reconcile_seconds",
    "Duration of one reconciliation of one custom resource.",
    ["kind"],
    registry=REGISTRY,
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0),
)
RECONCILE_ERRORS = Counter(
    "llamadeploy_operator_reconcile_errors_total",
    "Reconciliations that failed and are tried again.",
    ["kind"],
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge(
    "llamadeploy_operator_queue_depth",
    "Custom resources that are due to be reconciled.",
    registry=REGISTRY,
)
WATCH_AGE = Gauge(
    "llamadeploy_operator_watch_age_seconds",
    "Time since the last sign of life of a watch (an event or a bookmark).",
    ["resource", "namespace"],
    registry=REGISTRY,
)
LEADER = Gauge(
    "llamadeploy_operator_leader", "1 while this replica holds the lease.", registry=REGISTRY
)
DESIRED_REPLICAS = Gauge(
    "llamadeploy_autoscaler_desired_replicas",
    "Workers that the autoscaler wants of a service.",
    ["namespace", "workflowservice"],
    registry=REGISTRY,
)
