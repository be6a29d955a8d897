"""How many workers of a service run."""

from __future__ import annotations

from dataclasses import dataclass

from llamadeploy.delivery import allowed_replicas
from llamadeploy_operator.desired.autoscaling import autoscaled
from llamadeploy_operator.desired.context import ServiceContext
from llamadeploy_operator.desired.plan import Plan


@dataclass(frozen=True, slots=True)
class Scaling:
    """A decision.

    Attributes:
        asked: by ``spec.replicas`` of the WorkflowService.
        replicas: what its worker Deployment gets.
        limited: why the delivery table allows fewer than asked, with the cure; ``None`` where it
            does not.
    """

    asked: int
    replicas: int
    limited: str | None = None


def scaling(context: ServiceContext) -> Scaling:
    """From what is asked, the delivery table, and whether any worker is to run at all."""
    if context.parent is None or context.conflict is not None:
        return Scaling(context.replicas, 0)
    plan = Plan.of(context.parent, context.defaults)
    allowed = allowed_replicas(
        plan.delivery,
        context.replicas,
        broadcast=bool(context.spec.broadcast),
        partitions=context.partitions,
    )
    limited = f"{allowed.reason}; {allowed.cure}" if allowed.limited else None
    if (found := autoscaled(context)) is not None:
        # By what it may come to, so that it does not come and go with the number of the moment.
        limited = found.limited
    return Scaling(context.replicas, 0 if plan.suspended else allowed.replicas, limited)
