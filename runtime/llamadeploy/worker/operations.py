"""The store's calls that a worker makes, as they travel over the internal API.

One table, :data:`OPERATIONS`, tells both sides the request and the reply of each operation. A batch
is ``POST /internal/v1/execute`` with ``[{"op": ..., "request": {...}}, ...]``; the answer has, in
the same order, ``{"ok": ...}`` or ``{"error": {"type", "message"}}`` for each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from llamadeploy.exceptions import (
    ConflictError,
    LlamaDeployError,
    NotFoundError,
    QueueUnavailableError,
    ServiceCallError,
    StoreError,
    StoreUnavailableError,
)
from llamadeploy.state_stores.base import ExecutionStore
from llamadeploy.state_stores.records import (
    Completion,
    ExecutionKey,
    Finished,
    InboundEvent,
    NewEvent,
    ParkRequest,
    Renewal,
    StartReply,
    StartRequest,
)

EXECUTE_PATH = "/internal/v1/execute"
CALL_PATH = "/internal/v1/call"
RESULTS_PATH = "/internal/v1/results"


class WorkerStore(ExecutionStore, Protocol):
    """All that a worker asks of a store."""

    async def add_dead_letter(self, reason: str, message: str, service: str = "") -> int:
        """Keep a message that could not be understood; returns its id."""
        ...


class RenewRequest(msgspec.Struct, frozen=True):
    """Arguments of ``renew``."""

    worker_id: str
    keys: tuple[ExecutionKey, ...]
    lease: float
    custody: bool = False


class AppendRequest(msgspec.Struct, frozen=True):
    """Arguments of ``append_events``."""

    key: ExecutionKey
    events: tuple[NewEvent, ...]


class InboundRequest(msgspec.Struct, frozen=True):
    """Arguments of ``read_inbound``."""

    key: ExecutionKey
    after: int


class ResidentRequest(msgspec.Struct, frozen=True):
    """Arguments of ``note_resident``."""

    key: ExecutionKey
    reason: str


class DeadLetterRequest(msgspec.Struct, frozen=True):
    """Arguments of ``add_dead_letter``; the reply is the letter's id."""

    reason: str
    message: str
    service: str = ""


class CallRequest(msgspec.Struct, frozen=True):
    """Body of ``POST /internal/v1/call``: the attempt ``parent`` calls ``service``."""

    parent: ExecutionKey
    call_key: str
    service: str
    arguments: dict[str, Any]


class CallReply(msgspec.Struct, frozen=True):
    """The child task; its result is ``GET /internal/v1/results/<task_id>?wait=<seconds>``."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: types of request and reply, and how it is asked of a store."""

    request: type[Any]
    reply: Any
    invoke: Callable[[Any, Any], Awaitable[Any]]


OPERATIONS: dict[str, Operation] = {
    "start": Operation(StartRequest, StartReply, lambda s, r: s.start(r)),
    "renew": Operation(
        RenewRequest,
        list[Renewal],
        lambda s, r: s.renew(r.worker_id, r.keys, r.lease, custody=r.custody),
    ),
    "append_events": Operation(AppendRequest, bool, lambda s, r: s.append_events(r.key, r.events)),
    "read_inbound": Operation(
        InboundRequest, list[InboundEvent], lambda s, r: s.read_inbound(r.key, r.after)
    ),
    "park": Operation(ParkRequest, Finished, lambda s, r: s.park(r)),
    "finish": Operation(Completion, Finished, lambda s, r: s.finish(r)),
    "release": Operation(ExecutionKey, Finished, lambda s, r: s.release(r)),
    "note_resident": Operation(
        ResidentRequest, bool, lambda s, r: s.note_resident(r.key, r.reason)
    ),
    "add_dead_letter": Operation(
        DeadLetterRequest, int, lambda s, r: s.add_dead_letter(r.reason, r.message, r.service)
    ),
}


async def invoke(store: Any, op: str, request: Any) -> Any:
    """Ask ``store`` for the operation; the reply has the type that the table names."""
    return await OPERATIONS[op].invoke(store, request)


class OperationError(msgspec.Struct, frozen=True):
    """An error as it travels: the name of one of our exceptions, and its text."""

    type: str
    message: str


ERRORS: dict[str, type[LlamaDeployError]] = {
    error.__name__: error
    for error in (
        ConflictError,
        NotFoundError,
        QueueUnavailableError,
        ServiceCallError,
        StoreError,
        StoreUnavailableError,
    )
}
"""The exceptions that keep their type over the wire; any other one arrives as ``StoreError``."""
