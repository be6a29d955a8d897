"""The delivery table: every row as documented, and the limits that follow."""

from __future__ import annotations

import pytest

from llamadeploy.delivery import POLICIES, Delivery, allowed_replicas, policy_for
from llamadeploy.exceptions import ConfigurationError


@pytest.mark.parametrize(
    ("queue_type", "exclusive_mode", "delivery", "durable", "scale_to_zero"),
    [
        ("simple", None, Delivery.COMPETING, False, False),
        ("redis", False, Delivery.BROADCAST, False, False),
        ("redis", None, Delivery.BROADCAST, False, False),
        ("redis", True, Delivery.COMPETING, True, True),
        ("rabbitmq", None, Delivery.COMPETING, True, True),
        ("kafka", None, Delivery.COMPETING, True, True),
        ("aws", None, Delivery.COMPETING, True, True),
    ],
)
def test_each_row(queue_type, exclusive_mode, delivery, durable, scale_to_zero):
    policy = policy_for(queue_type, exclusive_mode)
    assert policy.delivery is delivery
    assert policy.durable_backlog is durable
    assert policy.scale_to_zero is scale_to_zero


def test_exclusive_mode_only_matters_for_redis():
    assert policy_for("rabbitmq", True) is policy_for("rabbitmq")
    assert len(POLICIES) == 6


def test_an_unknown_queue_names_the_known_ones():
    with pytest.raises(ConfigurationError) as caught:
        policy_for("zeromq")
    assert str(caught.value) == (
        "message queue: unknown type 'zeromq'; use one of simple, redis, rabbitmq, kafka, aws"
    )


@pytest.mark.parametrize("queue_type", ["simple", "rabbitmq", "aws", "kafka"])
@pytest.mark.parametrize("asked", [0, 1, 7])
def test_competing_queues_run_what_was_asked_for(queue_type, asked):
    allowed = allowed_replicas(policy_for(queue_type), asked)
    assert (allowed.replicas, allowed.limited, allowed.cure) == (asked, False, None)


def test_redis_broadcast_is_capped_at_one_and_names_both_cures():
    allowed = allowed_replicas(policy_for("redis"), 3)
    assert allowed.replicas == 1
    assert allowed.limited
    assert "exclusive_mode: true" in (allowed.cure or "")
    assert "broadcast: true" in (allowed.cure or "")


@pytest.mark.parametrize("asked", [0, 1])
def test_redis_broadcast_leaves_up_to_one_alone(asked):
    assert not allowed_replicas(policy_for("redis"), asked).limited


def test_redis_runs_several_when_broadcast_is_meant_or_replicas_compete():
    assert allowed_replicas(policy_for("redis"), 3, broadcast=True).replicas == 3
    assert allowed_replicas(policy_for("redis", True), 3).replicas == 3


def test_kafka_runs_at_most_one_replica_per_partition():
    allowed = allowed_replicas(policy_for("kafka"), 5, partitions=3)
    assert (allowed.replicas, allowed.cure) == (3, "give the topic 5 partitions")
    assert not allowed_replicas(policy_for("kafka"), 3, partitions=3).limited


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="got -1; must be 0 or more"):
        allowed_replicas(policy_for("simple"), -1)
