"""The control plane's Deployment."""

from __future__ import annotations

from llamadeploy.settings import HTTP_PORT, QUEUE_PORT
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.core_pod import ROLLING, STARTUP_SECONDS, core_template
from llamadeploy_operator.desired.env import merged, network_env, process_env, setting, store_env
from llamadeploy_operator.desired.objects import child, of_deployment
from llamadeploy_operator.desired.plain import without_none
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod import METRICS, http_probes, port, resources

STOP_SECONDS = 40
"""A pause in which Services forget the pod, 10 s for running requests, and some to spare."""

PAUSE = {"preStop": {"sleep": {"seconds": 5}}}


def control_plane_deployment(context: DeploymentContext) -> Manifest:
    """Its replicas share the store; where they cannot there is one, which is stopped before its
    successor starts."""
    plan = Plan.of(context, context.defaults)
    name = names.control_plane(context.owner.name)
    overlay = plan.control_plane.pod_template
    return child(
        "apps/v1",
        "Deployment",
        name,
        context.owner,
        of_deployment(context, names.CONTROL_PLANE),
        spec={
            **without_none({"replicas": plan.named_control_planes}),
            "revisionHistoryLimit": 3,
            "strategy": {"type": "Recreate"} if plan.embedded else ROLLING,
            "selector": {"matchLabels": names.selector(context.owner.name, names.CONTROL_PLANE)},
            "template": core_template(
                context, name, names.CONTROL_PLANE, _container(plan), overlay, STOP_SECONDS
            ),
        },
    )


def _container(plan: Plan) -> Manifest:
    ports = [port("http", HTTP_PORT), METRICS]
    if plan.queue.type == "simple":
        ports.insert(1, port("queue", QUEUE_PORT))
    own = []
    if plan.spec.default_service is not None:
        own.append(setting("default_service", plan.spec.default_service))
    if plan.control_plane.cors_origins is not None:
        own.append(setting("cors_origins", plan.control_plane.cors_origins))
    return {
        "name": names.CONTROL_PLANE,
        "image": plan.pin.image,
        "command": ["llamadeploy", "control-plane"],
        "ports": ports,
        "env": merged(network_env(plan), process_env(plan), store_env(plan), own),
        "resources": resources("100m", "192Mi", "1Gi"),
        "lifecycle": PAUSE,
        **http_probes(startup_seconds=STARTUP_SECONDS),
    }
