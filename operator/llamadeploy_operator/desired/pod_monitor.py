"""A PodMonitor, where the Prometheus operator is installed."""

from __future__ import annotations

from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.objects import child


def pod_monitor(context: DeploymentContext) -> Manifest | None:
    """One for all pods of the Deployment, its services' too."""
    if not context.capabilities.pod_monitor:
        return None
    deployment = names.label_value(context.owner.name)
    return child(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        names.config(context.owner.name),
        context.owner,
        names.labels(context.owner.name, names.CONFIG),
        spec={
            "selector": {"matchLabels": {names.DEPLOYMENT_LABEL: deployment}},
            "podTargetLabels": [
                names.DEPLOYMENT_LABEL, names.SERVICE_LABEL, names.COMPONENT_LABEL
            ],
            "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics"}],
        },
    )  # fmt: skip
