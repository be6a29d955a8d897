"""What lets KEDA scale a service: a ScaledObject, and the token it asks the control plane with.

It looks at the number that the operator's own autoscaler goes by, through KEDA's scaler
``metrics-api``: those for Redis and RabbitMQ do not count what is in work.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from llamadeploy.spec.autoscaling import Autoscaling
from llamadeploy.spec.manifest import API_VERSION
from llamadeploy_operator import names
from llamadeploy_operator.autoscaling import Floor
from llamadeploy_operator.desired.autoscaling import Autoscaled, autoscaled
from llamadeploy_operator.desired.context import Manifest, ServiceContext
from llamadeploy_operator.desired.objects import child, of_service
from llamadeploy_operator.desired.plain import plain
from llamadeploy_operator.desired.plan import Plan

KEDA_API = "keda.sh/v1alpha1"
PAUSED_ANNOTATION = "autoscaling.keda.sh/paused"

POLL_SECONDS = 5
"""KEDA's own is 30: how late the first task of an idle service is heard of."""

NEVER = "1000000000"
"""A target that asks for no second worker: its trigger only tells that there is work."""


def keda_children(context: ServiceContext, plan: Plan) -> list[Manifest]:
    """Both, where KEDA is there and is to scale."""
    found, spec = autoscaled(context), context.spec.autoscaling
    if found is None or spec is None or found.engine != "keda" or not context.capabilities.keda:
        return []
    name, labels = names.worker(context.owner.name), of_service(context)
    authentication = child(
        KEDA_API,
        "TriggerAuthentication",
        name,
        context.owner,
        labels,
        spec={
            "secretTargetRef": [
                {
                    "parameter": "token",
                    "name": names.internal_secret(plan.owner.name),
                    "key": names.API_TOKEN,
                }
            ]
        },
    )
    scaled = child(
        KEDA_API,
        "ScaledObject",
        name,
        context.owner,
        labels,
        annotations={PAUSED_ANNOTATION: "true"} if plan.suspended else None,
        spec=_spec(context, plan, found, spec),
    )
    return [authentication, scaled]


def _spec(
    context: ServiceContext, plan: Plan, found: Autoscaled, spec: Autoscaling
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "scaleTargetRef": {
            "apiVersion": API_VERSION,
            "kind": "WorkflowService",
            "name": context.owner.name,
        },
        "minReplicaCount": found.policy.min_replicas,
        "maxReplicaCount": found.policy.max_replicas,
        "pollingInterval": POLL_SECONDS,
        "triggers": [*_work(context, plan, spec), *map(_cron, found.policy.floors)],
    }
    behavior = spec.behavior
    if behavior is not None:
        rules = {direction: _rules(given) for direction, given in plain(behavior).items()}
        body["advanced"] = {"horizontalPodAutoscalerConfig": {"behavior": rules}}
        down = behavior.scale_down
        if down is not None and down.stabilization_window_seconds is not None:
            # From the last worker to none it is KEDA that waits, not its HPA.
            body["cooldownPeriod"] = down.stabilization_window_seconds
    return body


def _rules(given: dict[str, Any]) -> dict[str, Any]:
    """Those of a HorizontalPodAutoscaler, where a share is a quantity."""
    if "tolerance" not in given:
        return given
    return {**given, "tolerance": f"{given['tolerance']:g}"}


def _work(context: ServiceContext, plan: Plan, spec: Autoscaling) -> list[dict[str, Any]]:
    if spec.target_backlog is not None:
        return [_trigger(context, plan, "backlog", str(spec.target_backlog), "AverageValue")]
    return [
        _trigger(context, plan, "oldest_seconds", f"{spec.target_wait_seconds:g}", "Value"),
        # Nothing waits while the last task runs: its worker is not to go.
        _trigger(context, plan, "backlog", NEVER, "AverageValue"),
    ]


def _trigger(
    context: ServiceContext, plan: Plan, location: str, target: str, kind: str
) -> dict[str, Any]:
    service = quote(context.service, safe="")
    return {
        "type": "metrics-api",
        "name": location.replace("_", "-"),
        "metricType": kind,
        "metadata": {
            "url": f"{plan.control_plane_url}/services/{service}/scaling?strict=true",
            "valueLocation": location,
            "targetValue": target,
            "authMode": "bearer",
        },
        "authenticationRef": {"name": names.worker(context.owner.name)},
    }


def _cron(floor: Floor) -> dict[str, Any]:
    return {
        "type": "cron",
        "metadata": {
            "timezone": floor.time_zone,
            "start": floor.start,
            "end": floor.end,
            "desiredReplicas": str(floor.min_replicas),
        },
    }
