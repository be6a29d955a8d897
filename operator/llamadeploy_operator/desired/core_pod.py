"""The pods of control plane and orchestrator: what both read, and are spread and rolled by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.hashes import component_annotations, connection_hashes
from llamadeploy_operator.desired.objects import of_deployment
from llamadeploy_operator.desired.overlay import merge_pod_template
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod import PodPlan, ca_volumes, pod_template

ROLLING: Manifest = {
    "type": "RollingUpdate",
    "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
}
STARTUP_SECONDS = 120
"""A store that is just being started too may take its time."""


def core_template(
    context: DeploymentContext,
    name: str,
    component: str,
    container: Manifest,
    overlay: Mapping[str, Any] | None,
    grace: int = 30,
) -> Manifest:
    """The pod template of ``component``.

    Args:
        name: of its Deployment and ServiceAccount.
        overlay: its ``podTemplate``.

    Raises:
        InvalidPodTemplate: the overlay is wrong.
    """
    plan = Plan.of(context, context.defaults)
    live = context.live.get(name)
    found = connection_hashes(plan, context.hashes)
    replicas = plan.control_planes if component == names.CONTROL_PLANE else plan.orchestrators
    pod = PodPlan(
        labels=of_deployment(context, component),
        selector=names.selector(context.owner.name, component),
        service_account=name,
        container=container,
        revision=context.pin.revision,
        volumes=ca_volumes(context.defaults, context.owner.name),
        annotations=component_annotations(found, (), overlay, context.hashes, live),
        spread=replicas > 1,
        grace=grace,
    )
    section = "controlPlane" if component == names.CONTROL_PLANE else "orchestrator"
    template = pod_template(pod, context.defaults)
    return merge_pod_template(template, overlay, f"{section}.podTemplate")
