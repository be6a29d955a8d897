"""A service in discrete events: tasks in a queue, workers that take them, pods that start and end.

What is modelled is what scaling depends on: tasks wait in one queue (first come, first served);
a worker runs a few at a time; a new pod takes a while until it works; a removed one takes nothing
more and finishes what it has, as the worker does. Brokers and stores take no time.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.scaling.loads import SEED, Load
from llamadeploy_operator.autoscaling import Reading

SLOTS = 8
"""``maxConcurrentTasks``, its default."""
RUN_SECONDS = 2.0
"""Mean of a task's run; exponentially distributed."""
START_SECONDS = 5.0
"""From the decision until a new pod works, with its image on the node: an assumption."""


class Controller(Protocol):
    """Who decides about replicas."""

    name: str
    picks_idle: bool
    """Whether what is idle is removed first; otherwise what is youngest, as a ReplicaSet does."""

    def look(self, reading: Reading, current: int, now: float) -> tuple[int, float]:
        """Replicas from now on, and in how many seconds it looks again."""
        ...


@dataclass(eq=False)
class Worker:
    """One replica."""

    number: int
    works: bool = False
    leaving: bool = False
    running: int = 0


@dataclass
class Trace:
    """What happened.

    Attributes:
        changes: moment and replicas, from the first to the last second.
        queue: moment and ready tasks, once a second.
        waits: of each task, arrival and seconds until it was started.
        disturbed: tasks in work on replicas that were removed.
    """

    end: float = 0.0
    changes: list[tuple[float, int]] = field(default_factory=list)
    queue: list[tuple[float, int]] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    finished: int = 0
    disturbed: int = 0


class Simulation:
    """One load under one controller. ``run`` once."""

    def __init__(self, load: Load, controller: Controller, start: int) -> None:
        self._load, self._controller = load, controller
        self._rng = random.Random(f"{SEED} runs")
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._now = 0.0
        self._ready: deque[float] = deque()
        self._workers = [Worker(number, works=True) for number in range(start)]
        self._made = start
        self._seen: deque[Reading] = deque()
        self.trace = Trace(changes=[(0.0, start)])

    def run(self) -> Trace:
        """To the end of the load and its tail."""
        arrivals = self._load.arrivals()
        end = self._load.seconds + self._load.tail
        upcoming = next(arrivals, None)
        self._at(0.0, self._look)
        self._at(0.0, self._sample)
        while self._events or upcoming is not None:
            if upcoming is not None and (not self._events or upcoming <= self._events[0][0]):
                self._now = upcoming
                self._ready.append(upcoming)
                upcoming = next(arrivals, None)
            else:
                at, _, event = heapq.heappop(self._events)
                if at > end:
                    break
                self._now = at
                event()
            self._dispatch()
        self.trace.end = end
        return self.trace

    def _at(self, seconds: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self._now + seconds, self._count, event))

    def _dispatch(self) -> None:
        while self._ready:
            free = [each for each in self._workers if each.works and each.running < SLOTS]
            if not free:
                return
            worker = self._rng.choice(free)
            arrived = self._ready.popleft()
            self.trace.waits.append((arrived, self._now - arrived))
            worker.running += 1
            self._at(self._rng.expovariate(1 / RUN_SECONDS), lambda w=worker: self._finish(w))

    def _finish(self, worker: Worker) -> None:
        worker.running -= 1
        self.trace.finished += 1

    def _sample(self) -> None:
        self.trace.queue.append((self._now, len(self._ready)))
        self._seen.append(self._reading())
        while len(self._seen) > 1 and self._seen[1].at <= self._now - self._load.lag:
            self._seen.popleft()
        self._at(1.0, self._sample)

    def _reading(self) -> Reading:
        held = tuple((str(each.number), each.running) for each in self._workers)
        oldest = self._now - self._ready[0] if self._ready else 0.0
        running = sum(count for _, count in held)
        return Reading(self._now, len(self._ready), running, 0, 0, oldest, held)

    def _look(self) -> None:
        lag = self._load.lag and bool(self._seen)
        reading = self._seen[0] if lag else self._reading()
        current = len(self._workers)
        wanted, again = self._controller.look(reading, current, self._now)
        if wanted > current:
            self._add(wanted - current)
        elif wanted < current:
            self._remove(current - wanted)
        if wanted != current:
            self.trace.changes.append((self._now, wanted))
        self._at(again, self._look)

    def _add(self, count: int) -> None:
        for _ in range(count):
            worker = Worker(self._made)
            self._made += 1
            self._workers.append(worker)
            self._at(START_SECONDS, lambda w=worker: self._works(w))

    def _works(self, worker: Worker) -> None:
        worker.works = not worker.leaving

    def _remove(self, count: int) -> None:
        """Pods that do not work yet go first, as a ReplicaSet has it."""

        def order(worker: Worker) -> tuple[bool, int, int]:
            cost = worker.running if self._controller.picks_idle else 0
            return (worker.works, cost, -worker.number)

        for worker in sorted(self._workers, key=order)[:count]:
            self._workers.remove(worker)
            worker.leaving, worker.works = True, False
            self.trace.disturbed += worker.running
