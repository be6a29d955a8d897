"""ServiceAccounts: one for each component, without a token; pods never speak to the API server."""

from __future__ import annotations

from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.objects import child, of_deployment


def service_account(context: DeploymentContext, name: str, component: str) -> Manifest:
    """The account that pods of ``component`` run under."""
    return child(
        "v1",
        "ServiceAccount",
        name,
        context.owner,
        of_deployment(context, component),
        automountServiceAccountToken=False,
    )


def worker_service_account(context: DeploymentContext) -> Manifest:
    """That of all workers and resolvers: a cloud role bound to it reaches every service."""
    return service_account(context, names.workers(context.owner.name), names.WORKER)
