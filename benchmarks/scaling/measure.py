"""What a trace says."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from benchmarks.scaling.controllers import TARGET_BACKLOG
from benchmarks.scaling.loads import Load
from benchmarks.scaling.simulation import RUN_SECONDS, Trace

_LATEST = 300.0
"""A queue is a mark's when it is highest within this many seconds after it."""


@dataclass(frozen=True)
class Measures:
    """Of one load under one controller; seconds, replicas, tasks.

    Attributes:
        peak: most replicas.
        right: replicas that the highest rate asks for: rate x run / target.
        overshoot: peak over right; ``None`` for bursts, which have no rate.
        drain: from a mark of the load (a step, a burst) until the queue that it built up is empty;
            the longest.
        turns: changes of direction of the replicas.
        disturbed: tasks in work on replicas that were removed.
    """

    controller: str
    peak: int
    right: int
    overshoot: float | None
    drain: float | None
    wait_p95: float
    wait_max: float
    turns: int
    changes: int
    disturbed: int
    replica_seconds: float


def measure(controller: str, load: Load, trace: Trace) -> Measures:
    """All of it."""
    counts = [count for _, count in trace.changes]
    right = math.ceil(load.peak * RUN_SECONDS / TARGET_BACKLOG)
    waits = sorted(wait for _, wait in trace.waits)
    moves = [b - a for a, b in itertools.pairwise(counts)]
    turns = sum(1 for a, b in itertools.pairwise(moves) if (a > 0) != (b > 0))
    ends = [at for at, _ in trace.changes[1:]] + [trace.end]
    replica_seconds = sum(
        count * (end - at) for (at, count), end in zip(trace.changes, ends, strict=True)
    )
    return Measures(
        controller,
        max(counts),
        right,
        max(counts) / right - 1 if right else None,
        max((_drain(trace, mark) for mark in load.marks), default=None),
        waits[int(0.95 * (len(waits) - 1))],
        waits[-1],
        turns,
        len(moves),
        trace.disturbed,
        replica_seconds,
    )


def _drain(trace: Trace, mark: float) -> float:
    """From the mark until the queue that it built up is empty; 0 where none was."""
    window = [(at, ready) for at, ready in trace.queue if mark <= at < mark + _LATEST]
    highest = max(window, key=lambda each: each[1])
    if not highest[1]:
        return 0.0
    after = (at for at, ready in trace.queue if at > highest[0] and not ready)
    return next(after, trace.end) - mark
