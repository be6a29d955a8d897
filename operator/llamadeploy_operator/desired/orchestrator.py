"""The orchestrator's Deployment."""

from __future__ import annotations

from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.control_plane import STARTUP_SECONDS
from llamadeploy_operator.desired.env import merged, network_env, process_env, store_env
from llamadeploy_operator.desired.hashes import component_annotations, connection_hashes
from llamadeploy_operator.desired.objects import child, of_deployment
from llamadeploy_operator.desired.overlay import check_overlay, merge_pod_template
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod import (
    METRICS,
    PodPlan,
    ca_volumes,
    http_probes,
    pod_template,
    resources,
)


def orchestrator_deployment(context: DeploymentContext) -> Manifest | None:
    """``None`` where the control plane does its work."""
    plan = Plan.of(context, context.defaults)
    if not plan.orchestrators:
        check_overlay(plan.orchestrator.pod_template or {}, "orchestrator.podTemplate")
        return None
    selector = names.selector(context.owner.name, names.ORCHESTRATOR)
    return child(
        "apps/v1",
        "Deployment",
        names.orchestrator(context.owner.name),
        context.owner,
        of_deployment(context, names.ORCHESTRATOR),
        spec={
            "replicas": plan.orchestrators,
            "revisionHistoryLimit": 3,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "selector": {"matchLabels": selector},
            "template": _template(context, plan, selector),
        },
    )


def _template(context: DeploymentContext, plan: Plan, selector: dict[str, str]) -> Manifest:
    name = names.orchestrator(context.owner.name)
    overlay = plan.orchestrator.pod_template
    pod = PodPlan(
        labels=of_deployment(context, names.ORCHESTRATOR),
        selector=selector,
        service_account=name,
        container={
            "name": names.ORCHESTRATOR,
            "image": plan.pin.image,
            "command": ["llamadeploy", "orchestrator"],
            "ports": [METRICS],
            "env": merged(network_env(plan), process_env(plan), store_env(plan)),
            "resources": resources("100m", "128Mi", "512Mi"),
            **http_probes(startup_seconds=STARTUP_SECONDS),
        },
        revision=context.pin.revision,
        volumes=ca_volumes(context.defaults, context.owner.name),
        annotations=component_annotations(
            connection_hashes(plan, context.hashes), (), overlay, context.hashes,
            context.live.get(name),
        ),
        spread=plan.orchestrators > 1,
    )  # fmt: skip
    return merge_pod_template(
        pod_template(pod, context.defaults), overlay, "orchestrator.podTemplate"
    )
