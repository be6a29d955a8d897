"""Services: how the components are reached."""

from __future__ import annotations

from llamadeploy.settings import HTTP_PORT, METRICS_PORT, QUEUE_PORT
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.objects import child, of_deployment
from llamadeploy_operator.desired.plan import Plan


def service(
    context: DeploymentContext, name: str, component: str, ports: dict[str, int]
) -> Manifest:
    """A Service of ``component``; each port goes to the container's port of that name."""
    return child(
        "v1",
        "Service",
        name,
        context.owner,
        of_deployment(context, component),
        spec={
            "type": "ClusterIP",
            "selector": names.selector(context.owner.name, component),
            "ports": [
                {"name": key, "port": number, "targetPort": key, "protocol": "TCP"}
                for key, number in ports.items()
            ],
        },
    )


def control_plane_service(context: DeploymentContext) -> Manifest:
    """The control plane's: API, metrics, and the simple queue where it is that."""
    ports = {"http": HTTP_PORT, "metrics": METRICS_PORT}
    if Plan.of(context, context.defaults).queue.type == "simple":
        ports = {"http": HTTP_PORT, "queue": QUEUE_PORT, "metrics": METRICS_PORT}
    return service(context, names.control_plane(context.owner.name), names.CONTROL_PLANE, ports)


def ui_service(context: DeploymentContext) -> Manifest | None:
    """The user interface's."""
    if context.spec.ui is None:
        return None
    port = Plan.of(context, context.defaults).ui_port
    return service(context, names.ui(context.owner.name), names.UI, {"http": port})
