"""The operations of the script, with the type of their values."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from llamadeploy.redis_pipe import FREE, READ, WRITE
from llamadeploy.state_stores.records import (
    Cancelled,
    Created,
    Finished,
    InboundEvent,
    InboundOutcome,
    OutboxRow,
    Renewal,
    Repaired,
    StartReply,
)
from llamadeploy.state_stores.redis.replies import (
    DefinitionPage,
    Load,
    Log,
    Record,
    RecordPage,
    Session,
    SessionPage,
    Stage,
)

T = TypeVar("T")


_READS = frozenset(
    {
        "read_inbound", "get_task", "get_input", "list_tasks", "find_tasks", "service_load",
        "read_log", "get_session", "list_sessions", "routing_stage", "next_due", "get_service",
        "list_services", "list_dead_letters", "counts", "ping",
    }
)  # fmt: skip

_GROWS = frozenset(
    {
        "open", "create_task", "create_session", "merge_session_state", "append_events",
        "append_foreign_event", "append_inbound", "put_service", "add_dead_letter",
    }
)  # fmt: skip
"""What a full server refuses; what is left lets work come to its end."""


class Operation(Generic[T]):
    """A function of the script.

    Args:
        name: as the script knows it.
        kind: the type of its value.
        shown: what the contract calls it.
    """

    __slots__ = ("access", "decode", "name", "shown")

    def __init__(self, name: str, kind: Any, shown: str = "") -> None:
        self.name = name
        self.access = READ if name in _READS else WRITE if name in _GROWS else FREE
        self.shown = shown or name
        self.decode = msgspec.msgpack.Decoder[T](kind).decode


OPEN = Operation[int]("open", int, shown="ping")
START = Operation[StartReply]("start", StartReply)
RENEW = Operation[list[Renewal]]("renew", list[Renewal])
APPEND_EVENTS = Operation[bool]("append_events", bool)
READ_INBOUND = Operation[list[InboundEvent]]("read_inbound", list[InboundEvent])
PARK = Operation[Finished]("park", Finished)
FINISH = Operation[Finished]("finish", Finished)
RELEASE = Operation[Finished]("release", Finished)
NOTE_RESIDENT = Operation[bool]("note_resident", bool)
CREATE_TASK = Operation[Created]("create_task", Created)
GET_TASK = Operation[Record | None]("get_task", Record | None)
GET_INPUT = Operation[str | None]("get_input", str | None)
LIST_TASKS = Operation[DefinitionPage]("list_tasks", DefinitionPage)
FIND_TASKS = Operation[RecordPage]("find_tasks", RecordPage)
SERVICE_LOAD = Operation[Load]("service_load", Load)
CANCEL = Operation[Cancelled]("cancel", Cancelled)
COMPLETE = Operation[Finished]("complete", Finished)
GIVE_UP = Operation[Finished]("give_up", Finished)
APPEND_FOREIGN_EVENT = Operation[bool]("append_foreign_event", bool)
APPEND_INBOUND = Operation[InboundOutcome]("append_inbound", InboundOutcome)
READ_LOG = Operation[Log]("read_log", Log)
CREATE_SESSION = Operation[None]("create_session", None)
GET_SESSION = Operation[Session | None]("get_session", Session | None)
LIST_SESSIONS = Operation[SessionPage]("list_sessions", SessionPage)
DELETE_SESSION = Operation[Cancelled | None]("delete_session", Cancelled | None)
FORGET_SESSIONS = Operation[list[str]]("forget_sessions", list[str])
MERGE_SESSION_STATE = Operation[None]("merge_session_state", None)
ROUTING_STAGE = Operation[Stage | None]("routing_stage", Stage | None)
COMMIT_ROUTE = Operation[Finished]("commit_route", Finished)
OUTBOX_DONE = Operation[None]("outbox_done", None)
REPAIR = Operation[Repaired]("repair", Repaired)
NEXT_DUE = Operation[float | None]("next_due", float | None)
EXPIRE_WORKER = Operation[int]("expire_worker", int)
PUT_SERVICE = Operation[None]("put_service", None)
GET_SERVICE = Operation[str | None]("get_service", str | None)
LIST_SERVICES = Operation[list[str]]("list_services", list[str])
DELETE_SERVICE = Operation[None]("delete_service", None)
ADD_DEAD_LETTER = Operation[int]("add_dead_letter", int)
LIST_DEAD_LETTERS = Operation[None]("list_dead_letters", None)
RETRY_DEAD_LETTER = Operation[tuple[OutboxRow, ...]]("retry_dead_letter", tuple[OutboxRow, ...])
DELETE_DEAD_LETTER = Operation[bool]("delete_dead_letter", bool)
EXPIRE = Operation[int]("expire", int)
COUNTS = Operation[tuple[list[str], int]]("counts", tuple[list[str], int])
PING = Operation[str | None]("ping", str | None)
