"""How many replicas the work asks for, as a real number: before any rule.

With ``targetBacklog``: the backlog over it. While tasks wait, it is the backlog of this moment.
While none does, the running tasks vary by chance and nothing is urgent, so their mean over a minute
counts: who looks each second would else follow every chance.

With ``targetWaitSeconds``: the queue's pace says how long what is queued now will take to be
started, and the replicas are scaled by that time over the target. Two looks at the same queue give
two bounds of that time, and the smaller one counts:

- *by count*: the queue lost D tasks per second net, so it is empty in ready / D at the latest
  (later arrivals stand behind);
- *by age*: the head's arrival moved on by h seconds per second, so what arrived within the last
  ``oldest_seconds`` is started in ``oldest_seconds`` / h (exact under a steady load, where h is 1).

A queue that shows no pace will take at least as long as its head has waited: ``oldest_seconds``
alone. Where nobody works yet, nothing can be told, and what is there stays.

The time is that of the replicas that *worked* meanwhile, so it is they that are multiplied:
replicas whose pods still start do not count, and are not asked for twice. Nothing waits in an empty
queue; then the running tasks need their slots, a fifth of them spare, so
that a service that keeps up is not scaled in until it no longer does.
"""

from __future__ import annotations

from llamadeploy_operator.autoscaling.history import PACE_SECONDS, History, Sample
from llamadeploy_operator.autoscaling.policy import Policy
from llamadeploy_operator.autoscaling.reading import Reading

UTILIZATION = 0.8
"""Of the slots, when a service just keeps up."""


def need(policy: Policy, reading: Reading, current: int, history: History) -> float:
    """Replicas. The history has not seen the reading yet."""
    if not reading.backlog:
        return 0.0
    found, mean = 0.0, history.mean_running(reading)
    if policy.target_backlog is not None:
        backlog = reading.backlog if reading.ready else mean
        found = backlog / policy.target_backlog
    if policy.target_wait_seconds is not None:
        slots = UTILIZATION * policy.tasks_per_replica
        by_wait = _by_wait(policy.target_wait_seconds, reading, current, history)
        found = max(found, mean / slots, by_wait)
    return found


def _by_wait(target: float, reading: Reading, current: int, history: History) -> float:
    if not reading.ready:
        return 0.0
    samples = [each for each in history.samples if 1 <= reading.at - each.at <= PACE_SECONDS]
    seconds = _seconds(samples[0], reading) if samples else None
    if seconds is None:
        working, seconds = float(reading.working), reading.oldest_seconds
    else:
        working = sum(each.working for each in samples) + reading.working
        working /= len(samples) + 1
    return working * seconds / target if working else float(current)


def _seconds(before: Sample, reading: Reading) -> float | None:
    """By the queue's pace since then; ``None``: it shows none."""
    passed = reading.at - before.at
    lost = before.ready - reading.ready
    moved = passed - (reading.oldest_seconds - before.oldest_seconds)
    found = []
    if lost > 0:
        found.append(reading.ready * passed / lost)
    if moved > 0 and before.ready:
        found.append(reading.oldest_seconds * passed / moved)
    return min(found, default=None)
