"""What a service's owner asks of its autoscaler, in the words of HPA v2's ``behavior``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Select = Literal["Max", "Min", "Disabled"]


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """How much may change in a period.

    Attributes:
        value: replicas, or percent of those at the period's start.
        period_seconds: its length.
    """

    kind: Literal["Pods", "Percent"]
    value: int
    period_seconds: int


@dataclass(frozen=True, slots=True)
class Rules:
    """For one direction.

    Attributes:
        stabilization_seconds: the safest recommendation of that long counts: the highest one
            against scaling in, the lowest one against scaling out.
        policies: none: no limit of the rate.
        select: which of the policies counts: the one that allows the most change, or the least;
            ``Disabled``: this direction is closed.
        tolerance: share by which the need may differ from what is there, before anything changes.
    """

    stabilization_seconds: float
    policies: tuple[RatePolicy, ...] = ()
    select: Select = "Max"
    tolerance: float = 0.1


@dataclass(frozen=True, slots=True)
class Floor:
    """A least number of replicas, for part of the time.

    Attributes:
        start: cron expression of five fields; from then the floor holds.
        end: the same; from then it does not.
        time_zone: name in the IANA database, like ``Europe/Berlin``.
    """

    start: str
    end: str
    time_zone: str
    min_replicas: int


DEFAULT_SCALE_UP = Rules(0.0, (RatePolicy("Pods", 4, 15), RatePolicy("Percent", 100, 15)))
"""Those of HPA v2 (k8s.io/kubernetes, pkg/apis/autoscaling/v2/defaults.go, 1.35)."""

DEFAULT_SCALE_DOWN = Rules(60.0, (RatePolicy("Percent", 100, 15),))
"""Those of HPA v2, but with a window of 60 s in place of 300: HPA's is for CPU, which swings; a
backlog is a count, what is scaled in is idle, and what comes back starts at once. docs/scaling.md
compares them."""

HPA_SCALE_DOWN_SECONDS = 300.0
"""HPA's own window (``--horizontal-pod-autoscaler-downscale-stabilization``)."""

DEFAULT_TASKS_PER_REPLICA = 8
"""``maxConcurrentTasks`` where the service says nothing."""


@dataclass(frozen=True, slots=True)
class Policy:
    """All of it.

    Attributes:
        target_backlog: unfinished tasks per replica (ready, unacked and in custody).
        target_wait_seconds: how long a task may wait for a worker. With both targets the higher
            need counts, as with several metrics of an HPA.
        tasks_per_replica: ``maxConcurrentTasks``; used with ``target_wait_seconds``.
    """

    min_replicas: int
    max_replicas: int
    target_backlog: float | None = None
    target_wait_seconds: float | None = None
    scale_up: Rules = DEFAULT_SCALE_UP
    scale_down: Rules = DEFAULT_SCALE_DOWN
    floors: tuple[Floor, ...] = ()
    tasks_per_replica: int = DEFAULT_TASKS_PER_REPLICA
