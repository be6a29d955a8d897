"""The border inside a worker: its loop (leases, queue, store) on one side, the runner on the other.

The worker's I/O runs on its own thread and event loop; everything below is called on the *workflow*
loop only, where user code runs and may block. The worker hops between the two loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llamadeploy.state_stores.records import Execution, InboundEvent, NewEvent


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The run returned: ``result`` is ``str()`` of the value, ``context`` the signed new context
    (``None`` unless the execution keeps it)."""

    result: str
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The run raised, timed out, or could not be started or resumed.

    Attributes:
        data: ``{"state": "failed", "error": {"type", "message", "traceback"}}``.
        retryable: whether ``retry_on_error`` may apply (an exception of the workflow itself; not
            bad input, a time-out of the whole task, or code that no longer fits the snapshot).
    """

    result: str
    data: dict[str, Any] = field(default_factory=dict)
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Waiting:
    """The run waits for an event and was snapshotted while idle; it is no longer in memory.

    Attributes:
        deadline: seconds since the epoch when the first waiter times out, or ``None``.
        run_seconds: non-idle seconds used so far, earlier attempts of the same run included.
    """

    snapshot: str
    consumed_seq: int
    next_index: int
    deadline: float | None = None
    run_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """The run was cancelled through :meth:`Run.cancel`; nothing of it is to be written."""


Outcome = Succeeded | Failed | Waiting | Stopped


class Sink(Protocol):
    """Where a run's output goes while it runs. Non-blocking; called on the workflow loop."""

    def emit(self, event: NewEvent) -> None:
        """An event of the stream; the worker batches and appends it."""
        ...

    def emit_last(self, event: NewEvent) -> None:
        """The stream's last event: the run ends at once, so it may travel with the result."""
        ...

    def resident(self, reason: str) -> None:
        """The run waits but cannot be parked; it stays in memory. Shown in the task's status."""
        ...


class Run(Protocol):
    """One attempt in progress."""

    async def ended(self) -> Outcome:
        """How it ended, as soon as that is known: what the run leaves behind (synchronous threads,
        steps that ignore their cancellation) may still be running. The end can be written now."""
        ...

    async def outcome(self) -> Outcome:
        """How it ended. Never raises for what the workflow did; synchronous threads the workflow
        left behind have ended when this returns (their slot stays taken until then)."""
        ...

    def deliver(self, events: Sequence[InboundEvent]) -> None:
        """Accepted events, by ``seq``; repeats and gaps-free order are the caller's promise."""
        ...

    def cancel(self) -> None:
        """Stop as soon as possible; ``outcome`` becomes ``Stopped``. Idempotent."""
        ...


class Runner(Protocol):
    """Runs attempts of one workflow; the only part of a worker that knows the workflow library."""

    @property
    def code_version(self) -> str:
        """Identifies the workflow's code; stored with a park."""
        ...

    def start(self, execution: Execution, sink: Sink) -> Run:
        """Begin the attempt; returns at once."""
        ...


class ServiceCaller(Protocol):
    """Calls another service of the deployment from inside a run; implemented by the worker."""

    async def call(
        self, execution: Execution, service: str, arguments: dict[str, Any], call_key: str
    ) -> str:
        """The result's text of the child task whose id is derived from the parent and ``call_key``.

        Raises:
            ServiceCallError: the child failed or was cancelled.
            NotFoundError: no such service.
        """
        ...
