"""PodDisruptionBudgets: a node's drain takes one pod at a time."""

from __future__ import annotations

from llamadeploy_operator.desired.context import Manifest, Owner
from llamadeploy_operator.desired.objects import child


def disruption_budget(
    owner: Owner, name: str, labels: dict[str, str], selector: dict[str, str], replicas: int
) -> Manifest | None:
    """``None`` for a single pod, which a budget would only nail to its node."""
    if replicas < 2:
        return None
    return child(
        "policy/v1",
        "PodDisruptionBudget",
        name,
        owner,
        labels,
        spec={
            "maxUnavailable": 1,
            # Pods that are broken anyway must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector},
        },
    )
