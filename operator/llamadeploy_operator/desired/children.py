"""All children of a resource."""

from __future__ import annotations

from collections.abc import Iterator

from llamadeploy_operator.desired.context import DeploymentContext, Manifest, ServiceContext
from llamadeploy_operator.desired.service_account import worker_service_account


def deployment_children(context: DeploymentContext) -> list[Manifest]:
    """Everything that a Deployment's own reconciling applies, in the order to apply it.

    Without the internal Secret, which is created once (``internal_secret``), and never with two of
    the same kind and name.

    Raises:
        SpecError: the spec cannot be carried out; nothing is to be applied or deleted then.
    """
    return [manifest for manifest in _of_deployment(context) if manifest is not None]


def service_children(context: ServiceContext) -> list[Manifest]:
    """Everything that a WorkflowService's reconciling applies, in the order to apply it.

    Raises:
        SpecError: as :func:`deployment_children`.
    """
    return [manifest for manifest in _of_service(context) if manifest is not None]


def _of_deployment(context: DeploymentContext) -> Iterator[Manifest | None]:
    yield worker_service_account(context)


def _of_service(context: ServiceContext) -> Iterator[Manifest | None]:
    yield from ()
