"""What a person would want to know of a Deployment that is as it was asked for."""

from __future__ import annotations

from llamadeploy_operator.desired.context import DeploymentContext
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.reasons import Reason


def notices(context: DeploymentContext) -> list[tuple[Reason, str]]:
    """Reasons and texts of Events, to be sent when a Deployment is new."""
    if Plan.of(context, context.defaults).store_durable:
        return []
    text = (
        "state is kept in memory: when the control plane restarts, sessions and tasks are gone;"
        " set controlPlane.stateStore.managed, or the address of a store"
    )
    return [(Reason.STATE_NOT_DURABLE, text)]
