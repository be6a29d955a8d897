"""What the functions in the database answer, by operation."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from llamadeploy.state_stores.postgresql.codec import decoder
from llamadeploy.state_stores.records import (
    Cancelled,
    Created,
    DeadLetter,
    Finished,
    InboundEvent,
    InboundOutcome,
    LogPage,
    OutboxRow,
    Renewal,
    Repaired,
    RoutingStage,
    ServiceLoad,
    StartReply,
    TaskRecord,
)

T = TypeVar("T")


class Reply(msgspec.Struct, Generic[T], frozen=True):
    """Of an operation that may change something.

    Attributes:
        publish: rows that are due now.
        touched: tasks whose followers are to be woken.
        ended: those of them that ended, with their records; ``None``: forgotten.
        observed: calls of an observer: a method's name, then its arguments.
    """

    value: T
    publish: tuple[OutboxRow, ...] = ()
    touched: tuple[str, ...] = ()
    ended: tuple[tuple[str, TaskRecord | None], ...] = ()
    observed: tuple[tuple[Any, ...], ...] = ()


def finished(reply: Reply[bool]) -> Finished:
    """The outcome of an operation that is accepted or not."""
    return Finished(accepted=reply.value, publish=reply.publish)


class Definition(msgspec.Struct, frozen=True):
    """A task's definition and its number."""

    id: int
    task_id: str
    session_id: str
    service_id: str
    input: str


class Session(msgspec.Struct, frozen=True):
    """A session's definition."""

    session_id: str
    state: dict[str, Any]
    task_ids: list[str]


FLAG = decoder(Reply[bool])
NUMBER = decoder(Reply[int])
NONE = decoder(Reply[None])
NAMES = decoder(Reply[list[str]])
START = decoder(Reply[StartReply])
RENEWALS = decoder(Reply[list[Renewal]])
CREATED = decoder(Reply[Created])
CANCELLED = decoder(Reply[Cancelled])
DELETED = decoder(Reply[Cancelled | None])
INBOUND_OUTCOME = decoder(Reply[InboundOutcome])
REPAIRED = decoder(Reply[Repaired])

INBOUND = decoder(list[InboundEvent])
RECORD = decoder(TaskRecord | None)
RECORDS = decoder(list[TaskRecord])
TEXT = decoder(str | None)
TEXTS = decoder(list[str])
DEFINITIONS = decoder(list[Definition])
LOAD = decoder(ServiceLoad)
LOG_PAGE = decoder(LogPage)
SESSION = decoder(Session | None)
SESSIONS = decoder(list[Session])
STAGE = decoder(RoutingStage | None)
LETTERS = decoder(list[DeadLetter])
COUNTS = decoder(dict[str, int])
MARKS = decoder(dict[str, str])
SECONDS = decoder(float | None)
