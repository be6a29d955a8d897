"""What a store tells of its work to whoever measures it.

Told after the commit, on the event loop that opened the store, and only of what this very
connection did: where several processes share a store, each change is told once, in one of them.
"""

from __future__ import annotations

from typing import Protocol


class StoreObserver(Protocol):
    """Takes what happened; every method is cheap and raises nothing."""

    def operation(self, name: str, seconds: float) -> None:
        """An operation of the contract took this long, from its call until after its commit."""
        ...

    def started(self, service: str, task_id: str, waited: float | None) -> None:
        """An attempt began; ``waited`` (seconds since the task's creation) with the first one."""
        ...

    def ran(self, service: str, task_id: str) -> None:
        """The attempt came to its own end: a result, an error, or a park."""
        ...

    def ended(self, service: str, task_id: str, outcome: str) -> None:
        """The task got its one result; ``outcome`` is its terminal state."""
        ...

    def redelivered(self, service: str) -> None:
        """A task is handed out again: its attempt was lost, or failed under ``retry_on_error``."""
        ...

    def dead_letter(self, service: str) -> None:
        """Work was given up and put aside for people."""
        ...


Observation = tuple[object, ...]
"""A call to be made after the commit: the name of an observer's method, then its arguments."""


def tell(observer: StoreObserver, observations: list[Observation]) -> None:
    """Make the calls."""
    for name, *arguments in observations:
        getattr(observer, str(name))(*arguments)
