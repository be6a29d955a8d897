"""What travels over HTTP: the models of LlamaDeploy 0.8.1, with what was added marked as such.

Unknown fields are kept (``extra="allow"``) where a record goes through us to somebody else, so
that components of neighbouring releases work together.
"""

from __future__ import annotations

import os
import threading
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CONTROL_PLANE_NAME = "control_plane"
"""The name under which the control plane consumes messages: topic ``<namespace>.control_plane``."""


class _RandomBytes:
    """The operating system's random bytes, fetched for many ids at once: a system call costs up to
    0.1 ms in a sandboxed container, and every task needs several ids."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._pool = b""
        self._used = 0
        # A forked child must not hand out the bytes of its parent.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def take(self, count: int) -> bytes:
        with self._lock:
            if len(self._pool) - self._used < count:
                self._pool, self._used = os.urandom(self._size), 0
            begin, self._used = self._used, self._used + count
            return self._pool[begin : begin + count]

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._pool, self._used = b"", 0


_random_bytes = _RandomBytes()


def generate_id() -> str:
    """A new random id (UUID 4, 36 characters)."""
    text = _random_bytes.take(16).hex()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


class SessionPolicy(StrEnum):
    """What a second task of a session does while the first one is unfinished."""

    ENQUEUE = "enqueue"
    PARALLEL = "parallel"
    REJECT = "reject"


class TaskState(StrEnum):
    """Where a task stands; the last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the task has its one result."""
        return self in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


class TaskDefinition(BaseModel):
    """A task as a client sends it: ``input`` is a JSON object in a string (the run's arguments)."""

    input: str
    task_id: str = Field(default_factory=generate_id)
    session_id: str | None = None
    service_id: str | None = None


class SessionDefinition(BaseModel):
    """A session with the ids of its tasks, oldest first."""

    session_id: str = Field(default_factory=generate_id)
    task_ids: list[str] = Field(default_factory=list)
    state: dict[str, Any] = Field(default_factory=dict)

    @property
    def current_task_id(self) -> str | None:
        """The newest task's id."""
        return self.task_ids[-1] if self.task_ids else None


class EventDefinition(BaseModel):
    """An event for a running task: the serialised event and the service that runs the task."""

    service_id: str
    event_obj_str: str


class TaskResult(BaseModel):
    """The one result of a task.

    ``result`` is ``str()`` of what the workflow returned, or the exception's text. ``data`` of a
    task that did not succeed has ``state`` (``failed`` or ``cancelled``) and ``error`` with
    ``type``, ``message`` and ``traceback``.
    """

    task_id: str
    history: list[Any] = Field(default_factory=list)
    result: str
    data: dict[str, Any] = Field(default_factory=dict)


class TaskStream(BaseModel):
    """One event of a task's stream, as it travels in a ``task_stream`` message."""

    task_id: str
    session_id: str | None = None
    data: dict[str, Any]
    index: int


class ServiceOptions(BaseModel):
    """How tasks of a service are treated (added; clients of 0.8.1 ignore it).

    Times are seconds; ``None`` means no limit.
    """

    session_policy: SessionPolicy = SessionPolicy.ENQUEUE
    timeout: float | None = Field(default=None, gt=0)
    wait_timeout: float | None = Field(default=None, gt=0)
    queue_timeout: float | None = Field(default=None, gt=0)
    max_retries: int = Field(default=3, ge=0)
    retry_on_error: bool = False
    broadcast: bool = False


class ServiceDefinition(BaseModel):
    """A service as it is registered with a control plane."""

    model_config = ConfigDict(extra="allow")

    service_name: str
    description: str = ""
    prompt: list[Any] = Field(default_factory=list)
    host: str | None = None
    port: int | None = None
    options: ServiceOptions = Field(default_factory=ServiceOptions)


class StatusEnum(StrEnum):
    """How an API server is."""

    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    DOWN = "Down"


class Status(BaseModel):
    """Reply of ``GET /status/``; ``details`` was added."""

    status: StatusEnum
    status_message: str = ""
    max_deployments: int | None = None
    deployments: list[str] | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class DeploymentDefinition(BaseModel):
    """A deployment's name, as 0.8.1 lists it."""

    name: str


class TaskStatus(BaseModel):
    """Where one task stands (added). Times are seconds since the epoch."""

    task_id: str
    session_id: str
    service_id: str
    state: TaskState
    attempts: int
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    event_count: int = 0
    detail: str = ""
    wait_deadline: float | None = None
    """Of a waiting task: when the wait ends by itself."""
    resident: str | None = None
    """Of a running task that waits in its worker's memory: why it could not be put away."""
    runs: int = 0
    """Attempts, and what other replicas ran of them (broadcast)."""


class TaskEvent(BaseModel):
    """An event of a typed stream (added). ``seq`` grows over the whole log and is what a reader
    continues after; ``index`` counts within one run; ``type`` is the event class's full name."""

    seq: int
    attempt: int
    index: int
    type: str
    data: dict[str, Any]


class StreamRestart(BaseModel):
    """A marker of a typed stream (added): forget the events with an index of ``base_index`` and
    above, ``attempt`` writes them anew."""

    attempt: int
    base_index: int


class DeadLetterDefinition(BaseModel):
    """Work that was given up (added): a task out of retries (``task_id``), or a message that could
    not be understood (``message``)."""

    letter_id: int
    created_at: float
    reason: str
    service: str = ""
    task_id: str | None = None
    message: str | None = None


class ReplicaLoad(BaseModel):
    """One worker and how many tasks it runs (added)."""

    name: str
    in_flight: int


class ServiceScaling(BaseModel):
    """A service's unfinished work, as an autoscaler reads it (added).

    ``ready`` tasks no worker has started, ``unacked`` ones are in work and their message is not
    acknowledged, ``custody`` ones are in work and it is; ``oldest_seconds`` is how long the first
    ready one has waited. ``parked`` ones wait for an event, or behind another one of their session:
    no worker could help them. ``backlog`` is the sum of the first three. ``version`` changes with
    everything but time; given back as ``?version=`` with ``?wait=`` it makes the next reply wait
    for a change. ``problem``: why more or fewer workers would not help now (the message queue is
    away); whoever scales leaves them as they are.
    """

    ready: int = 0
    unacked: int = 0
    custody: int = 0
    parked: int = 0
    backlog: int = 0
    oldest_seconds: float = 0.0
    replicas: list[ReplicaLoad] = Field(default_factory=list)
    version: str = ""
    problem: str | None = None


class ServiceStatus(BaseModel):
    """A service for people (added). ``state`` is ``ready``, ``starting``, ``backoff``, ``stopping``
    or ``stopped``; ``unknown`` with no replicas where this server does not run the workers."""

    service_name: str
    description: str = ""
    default: bool = False
    state: str = "unknown"
    replicas: int | None = None
    ready_replicas: int | None = None
    restarts: int = 0
    last_error: str | None = None
    queued: int = 0
    running: int = 0
    waiting: int = 0


class LogLine(BaseModel):
    """A line that a worker wrote (added); ``time`` in seconds since the epoch."""

    time: float
    service: str
    replica: str
    text: str


class CancelOutcome(BaseModel):
    """Reply of ``cancel``: the state that holds now, whoever won (added)."""

    task_id: str
    state: TaskState
    outcome: Literal["cancelled", "already_finished"]
