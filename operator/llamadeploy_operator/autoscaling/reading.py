"""What is known of a service's work at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """A service's unfinished tasks, as its control plane's ``/scaling`` counts them.

    Attributes:
        at: when, in seconds since 1970.
        ready: tasks that no worker has started.
        unacked: tasks in work whose message is not acknowledged.
        custody: tasks in work whose message is.
        parked: tasks that wait for people, or behind another one of their session. No worker could
            help them, so they ask for none.
        oldest_seconds: how long the first ready one has waited.
        in_flight: name and number of tasks in work, per replica that is known.
    """

    at: float
    ready: int = 0
    unacked: int = 0
    custody: int = 0
    parked: int = 0
    oldest_seconds: float = 0.0
    in_flight: tuple[tuple[str, int], ...] = ()

    @property
    def running(self) -> int:
        """Tasks in work."""
        return self.unacked + self.custody

    @property
    def backlog(self) -> int:
        """Tasks that workers have to do."""
        return self.ready + self.running

    @property
    def working(self) -> int:
        """Replicas that hold work."""
        return sum(1 for _, tasks in self.in_flight if tasks > 0)
