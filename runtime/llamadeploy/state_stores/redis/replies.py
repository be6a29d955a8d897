"""The script's values as the records of the contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from llamadeploy.state_stores.observation import Observation
from llamadeploy.state_stores.records import DeadLetter, RoutingStage, TaskRecord
from llamadeploy.types import SessionDefinition, TaskState


class Record(msgspec.Struct, kw_only=True):
    """A task; ``data`` is JSON."""

    task_id: str
    session_id: str
    service: str
    state: TaskState
    attempt: int
    crashes: int
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    result: str | None = None
    data: str | None = None
    event_count: int = 0
    owner: str | None = None
    parent: str | None = None
    wait_deadline: float | None = None
    resident: str | None = None
    runs: int = 0


Ended = list[tuple[str, Record | bool]]
"""Tasks that ended; false where the record must be read."""


class Log(msgspec.Struct):
    """A page of a log without its events; ``bases`` has those that are not 0."""

    state: TaskState
    attempt: int
    bases: list[tuple[int, int]]
    event_count: int


class Load(msgspec.Struct):
    """The load of a service."""

    running: list[tuple[str, int]]
    queued: int
    blocked: int = 0
    waiting: int = 0
    custody: int = 0
    oldest_queued_at: float | None = None


class Session(msgspec.Struct):
    """A session; ``state`` has keys and values (JSON) in turn."""

    session_id: str
    task_ids: list[str]
    state: list[str]


class Stage(msgspec.Struct, kw_only=True):
    """A stage to be routed; ``data`` is JSON, ``state`` as in :class:`Session`."""

    task_id: str
    session_id: str
    service: str
    input: str
    stage: int
    result: str
    data: str | None = None
    state: list[str]
    version: int


DefinitionPage = tuple[list[dict[str, str]], int]
RecordPage = tuple[list[Record], int]
SessionPage = tuple[list[Session], str]

decode_events = msgspec.msgpack.Decoder(list[tuple[int, int, str, str]]).decode
"""Attempt, index, type and data of each."""

decode_letters = msgspec.msgpack.Decoder(list[DeadLetter]).decode


def task_record(found: Record) -> TaskRecord:
    """The record as the contract has it."""
    fields = msgspec.structs.asdict(found)
    fields["data"] = from_json(found.data)
    return TaskRecord(**fields)


def ended_records(found: Ended) -> dict[str, TaskRecord | None]:
    """As followers take it."""
    return {
        task_id: task_record(item) if isinstance(item, Record) else None for task_id, item in found
    }


def session(found: Session) -> SessionDefinition:
    """The session as the contract has it."""
    return SessionDefinition(
        session_id=found.session_id, task_ids=found.task_ids, state=state_of(found.state)
    )


def routing_stage(found: Stage) -> RoutingStage:
    """The stage as the contract has it."""
    fields = msgspec.structs.asdict(found)
    fields["data"] = from_json(found.data)
    fields["state"] = state_of(found.state)
    return RoutingStage(**fields)


def pairs(flat: list[str]) -> Iterable[tuple[str, str]]:
    """What Redis returns of a hash, two by two."""
    return zip(flat[::2], flat[1::2], strict=True)


def state_of(flat: list[str]) -> dict[str, Any]:
    """A session's state."""
    return {key: msgspec.json.decode(text) for key, text in pairs(flat)}


def state_fields(state: dict[str, Any]) -> list[str]:
    """The reverse of :func:`state_of`."""
    return [text for key, item in state.items() for text in (key, _json(item))]


def to_json(data: dict[str, Any]) -> str | None:
    """JSON text, ``None`` for an empty object."""
    return _json(data) if data else None


def from_json(text: str | None) -> dict[str, Any]:
    """The reverse of :func:`to_json`."""
    data: dict[str, Any] = {} if text is None else msgspec.json.decode(text)
    return data


def observations(found: list[list[Any]]) -> list[Observation]:
    """What an observer is told; Lua's lists end before a nil."""
    return [(*item, None) if item[0] == "started" and len(item) == 3 else tuple(item)
            for item in found]  # fmt: skip


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
