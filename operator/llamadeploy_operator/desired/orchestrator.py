"""The orchestrator's Deployment."""

from __future__ import annotations

from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.core_pod import ROLLING, STARTUP_SECONDS, core_template
from llamadeploy_operator.desired.env import merged, network_env, process_env, store_env
from llamadeploy_operator.desired.objects import child, of_deployment
from llamadeploy_operator.desired.overlay import check_overlay
from llamadeploy_operator.desired.plain import without_none
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod import METRICS, http_probes, resources


def orchestrator_deployment(context: DeploymentContext) -> Manifest | None:
    """``None`` where the control plane does its work."""
    plan = Plan.of(context, context.defaults)
    overlay = plan.orchestrator.pod_template
    if not plan.orchestrators:
        check_overlay(overlay or {}, "orchestrator.podTemplate")
        return None
    name = names.orchestrator(context.owner.name)
    container = {
        "name": names.ORCHESTRATOR,
        "image": plan.pin.image,
        "command": ["llamadeploy", "orchestrator"],
        "ports": [METRICS],
        "env": merged(network_env(plan), process_env(plan), store_env(plan)),
        "resources": resources("100m", "128Mi", "512Mi"),
        **http_probes(startup_seconds=STARTUP_SECONDS),
    }
    return child(
        "apps/v1",
        "Deployment",
        name,
        context.owner,
        of_deployment(context, names.ORCHESTRATOR),
        spec={
            **without_none({"replicas": plan.named_orchestrators}),
            "revisionHistoryLimit": 3,
            "strategy": ROLLING,
            "selector": {"matchLabels": names.selector(context.owner.name, names.ORCHESTRATOR)},
            "template": core_template(context, name, names.ORCHESTRATOR, container, overlay),
        },
    )
