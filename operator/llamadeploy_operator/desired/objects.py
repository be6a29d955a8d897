"""What every child's metadata has."""

from __future__ import annotations

from typing import Any

from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest, Owner, ServiceContext


def child(
    api_version: str,
    kind: str,
    name: str,
    owner: Owner,
    labels: dict[str, str],
    *,
    owned: bool = True,
    annotations: dict[str, str] | None = None,
    **body: Any,
) -> Manifest:
    """A child of ``owner``; ``body`` is what follows the metadata.

    Args:
        owned: the garbage collector deletes it with its owner.
    """
    metadata: dict[str, Any] = {"name": name, "namespace": owner.namespace, "labels": labels}
    if annotations:
        metadata["annotations"] = annotations
    if owned:
        metadata["ownerReferences"] = [owner_reference(owner)]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def owner_reference(owner: Owner) -> dict[str, Any]:
    """The controller reference to ``owner``."""
    return {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def of_deployment(context: DeploymentContext, component: str) -> dict[str, str]:
    """Labels of a Deployment's child."""
    return names.labels(context.owner.name, component)


def of_service(context: ServiceContext, component: str = names.WORKER) -> dict[str, str]:
    """Labels of a WorkflowService's child."""
    return names.labels(
        context.spec.deployment_ref.name,
        component,
        workflow_service=context.owner.name,
        service=context.service,
    )
