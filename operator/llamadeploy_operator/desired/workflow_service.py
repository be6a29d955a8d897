"""The WorkflowService of an inline service."""

from __future__ import annotations

from llamadeploy.spec.manifest import API_VERSION, InlineService
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.objects import child
from llamadeploy_operator.desired.plain import plain


def workflow_service(context: DeploymentContext, service: InlineService) -> Manifest:
    """Only what the user set: the rest is the schema's, and ``replicas`` whoever's who scales."""
    body = plain(service)
    del body["name"]
    name = names.workflow_service(context.owner.name, service.name)
    annotations = {names.SERVICE_NAME_ANNOTATION: service.name}
    if context.owner.reload:
        annotations[names.RELOAD_ANNOTATION] = context.owner.reload
    return child(
        API_VERSION,
        "WorkflowService",
        name,
        context.owner,
        names.labels(context.owner.name, names.WORKER, service=service.name),
        annotations=annotations,
        spec={
            "deploymentRef": {"name": context.owner.name},
            "serviceName": service.name,
            **body,
        },
    )
