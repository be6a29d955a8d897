"""How each message queue hands tasks to the replicas of a service, and what follows for scaling.

The one table of it, used by the runtime, by the operator's validation and by its scaling. The
facts are those of LlamaDeploy's documentation of its core components.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from llamadeploy.exceptions import ConfigurationError


class Delivery(StrEnum):
    """Which replicas of a service get a task."""

    COMPETING = "competing"
    BROADCAST = "broadcast"


class ReplicaLimit(StrEnum):
    """What bounds the replicas of a service."""

    NONE = "none"
    ONE_UNLESS_BROADCAST = "one_unless_broadcast"
    PARTITIONS = "partitions"


@dataclass(frozen=True)
class DeliveryPolicy:
    """One row of the table.

    Attributes:
        queue_type: as in ``messageQueue.type``.
        exclusive_mode: the setting of redis that the row is for; None where there is none.
        delivery: competing: one replica gets a task; broadcast: every one of them does, and where
            the service says ``broadcast`` every one runs it, the first to start as its leader.
        order: in words, who is next among competing replicas.
        durable_backlog: queued tasks survive while no replica runs.
        limit: what bounds the replicas.
        scale_to_zero: an autoscaler may stop the last replica: the backlog waits and is counted.
    """

    queue_type: str
    exclusive_mode: bool | None
    delivery: Delivery
    order: str
    durable_backlog: bool
    limit: ReplicaLimit
    scale_to_zero: bool


_COMPETING, _BROADCAST = Delivery.COMPETING, Delivery.BROADCAST
_NONE = ReplicaLimit.NONE

POLICIES: tuple[DeliveryPolicy, ...] = (
    DeliveryPolicy("simple", None, _COMPETING, "not deterministic", False, _NONE, False),
    DeliveryPolicy(
        "redis", False, _BROADCAST, "all", False, ReplicaLimit.ONE_UNLESS_BROADCAST, False
    ),
    DeliveryPolicy("redis", True, _COMPETING, "first come", True, _NONE, True),
    DeliveryPolicy("rabbitmq", None, _COMPETING, "round robin", True, _NONE, True),
    DeliveryPolicy(
        "kafka", None, _COMPETING, "one consumer group", True, ReplicaLimit.PARTITIONS, True
    ),
    DeliveryPolicy("aws", None, _COMPETING, "not deterministic", True, _NONE, True),
)

_BY_KEY = {(policy.queue_type, policy.exclusive_mode): policy for policy in POLICIES}


@dataclass(frozen=True)
class AllowedReplicas:
    """How many replicas run.

    Attributes:
        replicas: the number, at most what was asked for.
        reason: why it is less than asked for; None where it is not.
        cure: what to change to get as many as asked for; None where nothing is limited.
    """

    replicas: int
    reason: str | None = None
    cure: str | None = None

    @property
    def limited(self) -> bool:
        """Whether fewer run than were asked for."""
        return self.reason is not None


def policy_for(queue_type: str, exclusive_mode: bool | None = None) -> DeliveryPolicy:
    """The row of a queue.

    Args:
        exclusive_mode: of redis, where None is its documented default, false; not looked at for
            other queues.

    Raises:
        ConfigurationError: there is no such queue.
    """
    mode = bool(exclusive_mode) if queue_type == "redis" else None
    policy = _BY_KEY.get((queue_type, mode))
    if policy is None:
        known = ", ".join(dict.fromkeys(row.queue_type for row in POLICIES))
        raise ConfigurationError(f"message queue: unknown type {queue_type!r}; use one of {known}")
    return policy


def allowed_replicas(
    policy: DeliveryPolicy,
    asked: int,
    *,
    broadcast: bool = False,
    partitions: int | None = None,
) -> AllowedReplicas:
    """How many of the ``asked`` replicas of a service may run.

    Args:
        broadcast: the service says that every replica is to run every task.
        partitions: of the service's Kafka topic; None while unknown, which limits nothing.

    Raises:
        ValueError: ``asked`` is negative.
    """
    if asked < 0:
        raise ValueError(f"replicas: got {asked}; must be 0 or more")
    if policy.limit is ReplicaLimit.ONE_UNLESS_BROADCAST and asked > 1 and not broadcast:
        return AllowedReplicas(
            1,
            f"{policy.queue_type} with exclusive_mode false gives every task to every replica",
            "set exclusive_mode: true on the message queue so that replicas compete, or"
            " broadcast: true on the service to have every replica run every task",
        )
    if policy.limit is ReplicaLimit.PARTITIONS and partitions is not None and asked > partitions:
        return AllowedReplicas(
            partitions,
            f"the topic has {partitions} partitions, and a replica without one gets no task",
            f"give the topic {asked} partitions",
        )
    return AllowedReplicas(asked)
