"""What a WorkflowService's ``autoscaling`` comes to: bounds within the delivery table, rules with
their defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from llamadeploy.delivery import DeliveryPolicy, allowed_replicas
from llamadeploy.spec.autoscaling import Autoscaling, ScalingRules, Schedule
from llamadeploy_operator.autoscaling.policy import (
    DEFAULT_SCALE_DOWN,
    DEFAULT_SCALE_UP,
    DEFAULT_TASKS_PER_REPLICA,
    Floor,
    Policy,
    RatePolicy,
    Rules,
)
from llamadeploy_operator.autoscaling.schedules import problem
from llamadeploy_operator.desired.context import ServiceContext
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.errors import SpecError


@dataclass(frozen=True, slots=True)
class Autoscaled:
    """A service that is scaled.

    Attributes:
        limited: what of the bounds the delivery table does not allow, with the cure; ``None``:
            nothing.
    """

    engine: Literal["operator", "keda"]
    policy: Policy
    limited: str | None = None


def autoscaled(context: ServiceContext) -> Autoscaled | None:
    """``None`` where the service is not scaled, or is nobody's.

    Raises:
        SpecError: a schedule cannot be understood.
    """
    spec = context.spec.autoscaling
    if spec is None or context.parent is None or context.conflict is not None:
        return None
    row = Plan.of(context.parent, context.defaults).delivery
    low, high, limited = _bounds(spec, row, context.partitions)
    floors = tuple(_floor(each, index) for index, each in enumerate(spec.schedules or ()))
    behavior = spec.behavior
    policy = Policy(
        min_replicas=low,
        max_replicas=high,
        target_backlog=spec.target_backlog,
        target_wait_seconds=spec.target_wait_seconds,
        scale_up=_rules(behavior.scale_up if behavior else None, DEFAULT_SCALE_UP),
        scale_down=_rules(behavior.scale_down if behavior else None, DEFAULT_SCALE_DOWN),
        floors=floors,
        tasks_per_replica=context.spec.max_concurrent_tasks or DEFAULT_TASKS_PER_REPLICA,
    )
    return Autoscaled(spec.engine or "operator", policy, limited)


def _bounds(
    spec: Autoscaling, row: DeliveryPolicy, partitions: int | None
) -> tuple[int, int, str | None]:
    allowed = allowed_replicas(row, spec.max_replicas, partitions=partitions)
    found = [f"{allowed.reason}; {allowed.cure}"] if allowed.limited else []
    low = 1 if spec.min_replicas is None else spec.min_replicas
    if low == 0 and not row.scale_to_zero:
        low = 1
        found.append(
            f"minReplicas is 1: {_named(row)} does not keep tasks while no worker runs; write"
            " minReplicas: 1, or use redis with exclusiveMode: true, rabbitmq, kafka or aws"
        )
    return min(low, allowed.replicas), allowed.replicas, "; ".join(found) or None


def _named(row: DeliveryPolicy) -> str:
    if row.exclusive_mode is None:
        return f"the queue {row.queue_type}"
    return f"{row.queue_type} with exclusiveMode: {str(row.exclusive_mode).lower()}"


def _rules(given: ScalingRules | None, default: Rules) -> Rules:
    if given is None:
        return default
    found = default
    if given.stabilization_window_seconds is not None:
        found = replace(found, stabilization_seconds=float(given.stabilization_window_seconds))
    if given.policies is not None:
        policies = tuple(
            RatePolicy(each.type, each.value, each.period_seconds) for each in given.policies
        )
        found = replace(found, policies=policies)
    if given.select_policy is not None:
        found = replace(found, select=given.select_policy)
    if given.tolerance is not None:
        found = replace(found, tolerance=given.tolerance)
    return found


def _floor(schedule: Schedule, index: int) -> Floor:
    zone = schedule.time_zone or "UTC"
    floor = Floor(schedule.start, schedule.end, zone, schedule.min_replicas)
    wrong = problem(floor)
    if wrong is not None:
        field, _, text = wrong.partition(": ")
        what, _, cure = text.partition("; ")
        at = f"autoscaling.schedules[{index}].{field}"
        raise SpecError(at, what, cure or "correct it")
    return floor
