"""One decision: need, then windows, rates, work in flight and bounds, in the order of HPA v2.

Of HPA's controller (k8s.io/kubernetes, pkg/controller/podautoscaler/horizontal.go, 1.35) these
rules are taken as they are: the tolerance around the present count, the highest recommendation of
a window against scaling in and the lowest one against scaling out, a first recommendation that is
the present count, rate policies on the count at their period's start, and reasons' names. Ours are:

- No reading: what is there stays, within the bounds, and counts as recommended, so that the window
  to zero starts anew with the first reading after it.
- At zero, any task asks for a replica at once, whatever the rules for scaling out say: they limit
  how many more.
- Scaling in stops at the replicas that hold work at this moment. It is looked at last, after the
  window, so a replica that is idle now may go although it worked a minute ago. A lower
  ``maxReplicas`` goes before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llamadeploy_operator.autoscaling.history import History
from llamadeploy_operator.autoscaling.need import need
from llamadeploy_operator.autoscaling.policy import Policy, RatePolicy, Rules
from llamadeploy_operator.autoscaling.reading import Reading
from llamadeploy_operator.autoscaling.schedules import floor_at, seconds_to_change

LOOK_SECONDS = 15.0
"""The longest time between two decisions: HPA's ``--horizontal-pod-autoscaler-sync-period``."""
_LEAST_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do.

    Attributes:
        replicas: to write to ``/scale``, where it differs from what is there.
        reason: ``ScaledUp``, ``ScaledDown``, ``Steady`` or ``MetricUnavailable``.
        message: the same for people, with the figures.
        limited: why it is not what the work asks for: ``ScaleUpStabilized``,
            ``ScaleDownStabilized``, ``ScaleUpLimit``, ``ScaleDownLimit``, ``WorkInFlight``,
            ``TooFewReplicas`` or ``TooManyReplicas``; ``None``: it is.
        history: for the next decision. Keep it once ``/scale`` is written, and the old one where
            that failed: it says that the replicas were changed.
        look_again_seconds: when time alone may change the decision; a new reading may earlier.
    """

    replicas: int
    reason: str
    message: str
    limited: str | None
    history: History
    look_again_seconds: float


def decide(
    policy: Policy, reading: Reading | None, current: int, history: History, now: float
) -> Decision:
    """How many replicas a service should have.

    Args:
        reading: ``None``: the control plane cannot be reached, or what it said is too old.
        current: replicas asked for at present, ``spec.replicas``.
        history: of the last decision, ``History()`` for the first one.
        now: in seconds since 1970.
    """
    high = policy.max_replicas
    low = min(high, max(policy.min_replicas, floor_at(policy.floors, now)))
    if history.highest(now, math.inf) is None:  # HPA's recordInitialRecommendation
        history = history.recommend(current, now, policy.scale_up, policy.scale_down)
    if reading is None:
        replicas = max(low, min(high, current))
        history = history.recommend(current, now, policy.scale_up, policy.scale_down)
        message = f"the control plane cannot say what work there is: {replicas} replicas stay"
        return _decision(
            policy, current, replicas, "MetricUnavailable", message, None, history, now
        )
    asked = _asked(policy, reading, current, history)
    replicas, limited = _stabilized(policy, asked, current, history, now)
    replicas, limited = _rated(policy, replicas, current, history, now, limited)
    replicas, limited = _held(reading, replicas, current, limited)
    replicas, limited = _bounded(replicas, asked, low, high, limited)
    history = history.see(reading).recommend(asked, now, policy.scale_up, policy.scale_down)
    reason = "Steady" if replicas == current else _direction(current, replicas)
    message = _message(reading, asked, replicas, limited)
    return _decision(policy, current, replicas, reason, message, limited, history, now)


def _asked(policy: Policy, reading: Reading, current: int, history: History) -> int:
    """By the work alone; any work asks for one."""
    found = need(policy, reading, current, history)
    least = 1 if reading.backlog else 0
    if current and least:
        rules = policy.scale_up if found > current else policy.scale_down
        if 1 - rules.tolerance <= found / current <= 1 + rules.tolerance:
            return current
    return max(least, math.ceil(found))


def _stabilized(
    policy: Policy, asked: int, current: int, history: History, now: float
) -> tuple[int, str | None]:
    highest = history.highest(now, policy.scale_down.stabilization_seconds)
    lowest = history.lowest(now, policy.scale_up.stabilization_seconds)
    upper = asked if highest is None else max(asked, highest)
    lower = asked if lowest is None else min(asked, lowest)
    replicas = min(max(current, lower), upper)
    if replicas == asked:
        return replicas, None
    return replicas, "ScaleUpStabilized" if asked > current else "ScaleDownStabilized"


def _rated(
    policy: Policy, replicas: int, current: int, history: History, now: float, limited: str | None
) -> tuple[int, str | None]:
    if replicas > current:
        most = max(current, _reach(policy.scale_up, current, history, now, up=True))
        return (most, "ScaleUpLimit") if most < replicas else (replicas, limited)
    if replicas < current:
        least = min(current, _reach(policy.scale_down, current, history, now, up=False))
        return (least, "ScaleDownLimit") if least > replicas else (replicas, limited)
    return replicas, limited


def _reach(rules: Rules, current: int, history: History, now: float, *, up: bool) -> int:
    """The count that the rate policies let a direction go to."""
    if rules.select == "Disabled":
        return current
    if not rules.policies:
        return 2**31 - 1 if up else 0
    found = [_limit(each, current - history.changed(now, each), up=up) for each in rules.policies]
    return max(found) if up is (rules.select == "Max") else min(found)


def _limit(policy: RatePolicy, start: int, *, up: bool) -> int:
    """From the count at the period's start. Percents are rounded as HPA does, so that scaling out
    by percents never gets stuck at few replicas."""
    if policy.kind == "Pods":
        return start + policy.value if up else start - policy.value
    if up:
        return math.ceil(start * (100 + policy.value) / 100)
    return int(start * (100 - policy.value) / 100)


def _held(
    reading: Reading, replicas: int, current: int, limited: str | None
) -> tuple[int, str | None]:
    """From zero at once; and what holds work is not scaled in."""
    if current == 0 and reading.backlog and replicas < 1:
        return 1, limited
    busy = min(current, max(reading.working, 1 if reading.running else 0))
    return (busy, "WorkInFlight") if replicas < busy else (replicas, limited)


def _bounded(
    replicas: int, asked: int, low: int, high: int, limited: str | None
) -> tuple[int, str | None]:
    if replicas > high:
        return high, "TooManyReplicas"
    if replicas < low:
        return low, "TooFewReplicas" if asked < low else limited
    return replicas, limited


def _direction(current: int, replicas: int) -> str:
    return "ScaledUp" if replicas > current else "ScaledDown"


def _message(reading: Reading, asked: int, replicas: int, limited: str | None) -> str:
    text = (
        f"{reading.ready} ready tasks (the first waits for {reading.oldest_seconds:.0f} s) and"
        f" {reading.running} in work on {reading.working} replicas ask for {asked}"
    )
    return text if limited is None else f"{text}; {replicas} for now: {_LIMITS[limited]}"


_LIMITS = {
    "ScaleUpStabilized": "less was enough within the window of scaling out",
    "ScaleDownStabilized": "more was needed within the window of scaling in",
    "ScaleUpLimit": "no more may be added in this period",
    "ScaleDownLimit": "no more may be removed in this period",
    "WorkInFlight": "they hold work",
    "TooFewReplicas": "it is the least",
    "TooManyReplicas": "it is the most",
}


def _decision(
    policy: Policy,
    current: int,
    replicas: int,
    reason: str,
    message: str,
    limited: str | None,
    history: History,
    now: float,
) -> Decision:
    history = history.change(replicas - current, now, policy.scale_up, policy.scale_down)
    return Decision(
        replicas, reason, message, limited, history, _look(policy, limited, history, now)
    )


def _look(policy: Policy, limited: str | None, history: History, now: float) -> float:
    """When a window, a rate or a floor lets go at the earliest."""
    seconds = LOOK_SECONDS
    change = seconds_to_change(policy.floors, now)
    if change is not None:
        seconds = min(seconds, change)
    if limited == "ScaleDownStabilized":
        window = policy.scale_down.stabilization_seconds
        seconds = min(seconds, history.highest_leaves(now, window))
    elif limited in ("WorkInFlight", "ScaleUpLimit", "ScaleDownLimit"):
        seconds = min(seconds, 5 * _LEAST_LOOK_SECONDS)
    return max(_LEAST_LOOK_SECONDS, seconds)
