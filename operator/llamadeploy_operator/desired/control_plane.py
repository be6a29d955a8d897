"""The control plane's Deployment."""

from __future__ import annotations

from llamadeploy.settings import HTTP_PORT, QUEUE_PORT
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.env import merged, network_env, process_env, setting, store_env
from llamadeploy_operator.desired.hashes import component_annotations, connection_hashes
from llamadeploy_operator.desired.objects import child, of_deployment
from llamadeploy_operator.desired.overlay import merge_pod_template
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod import (
    METRICS,
    PodPlan,
    ca_volumes,
    http_probes,
    pod_template,
    port,
    resources,
)

STOP_SECONDS = 40
"""A pause in which Services forget the pod, 10 s for running requests, and some to spare."""

PAUSE = {"preStop": {"sleep": {"seconds": 5}}}
STARTUP_SECONDS = 120
"""A store that is just being started too may take its time."""


def control_plane_deployment(context: DeploymentContext) -> Manifest:
    """Its replicas share the store; where they cannot there is one, which is stopped before its
    successor starts."""
    plan = Plan.of(context, context.defaults)
    name = names.control_plane(context.owner.name)
    selector = names.selector(context.owner.name, names.CONTROL_PLANE)
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    return child(
        "apps/v1",
        "Deployment",
        name,
        context.owner,
        of_deployment(context, names.CONTROL_PLANE),
        spec={
            "replicas": plan.control_planes,
            "revisionHistoryLimit": 3,
            "strategy": {"type": "Recreate"} if plan.embedded else rolling,
            "selector": {"matchLabels": selector},
            "template": _template(context, plan, selector),
        },
    )


def _template(context: DeploymentContext, plan: Plan, selector: dict[str, str]) -> Manifest:
    name = names.control_plane(context.owner.name)
    overlay = plan.control_plane.pod_template
    pod = PodPlan(
        labels=of_deployment(context, names.CONTROL_PLANE),
        selector=selector,
        service_account=name,
        container=_container(plan),
        revision=context.pin.revision,
        volumes=ca_volumes(context.defaults, context.owner.name),
        annotations=component_annotations(
            connection_hashes(plan, context.hashes), (), overlay, context.hashes,
            context.live.get(name),
        ),
        spread=plan.control_planes > 1,
        grace=STOP_SECONDS,
    )  # fmt: skip
    return merge_pod_template(
        pod_template(pod, context.defaults), overlay, "controlPlane.podTemplate"
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
    env = merged(network_env(plan), process_env(plan), store_env(plan), own)
    return {
        "name": names.CONTROL_PLANE,
        "image": plan.pin.image,
        "command": ["llamadeploy", "control-plane"],
        "ports": ports,
        "env": env,
        "resources": resources("100m", "192Mi", "1Gi"),
        "lifecycle": PAUSE,
        **http_probes(startup_seconds=STARTUP_SECONDS),
    }
