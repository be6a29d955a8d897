"""The message that goes over a queue, as in LlamaDeploy 0.8.1 plus the actions that were added."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llamadeploy.types import CONTROL_PLANE_NAME


class ActionTypes(StrEnum):
    """What the consumer of a message is asked to do."""

    NEW_TASK = "new_task"
    COMPLETED_TASK = "completed_task"
    REQUEST_FOR_HELP = "request_for_help"
    NEW_TOOL_CALL = "new_tool_call"
    COMPLETED_TOOL_CALL = "completed_tool_call"
    TASK_STREAM = "task_stream"
    SEND_EVENT = "send_event"
    CANCEL_TASK = "cancel_task"
    """Added: the task was cancelled in the store, stop running it."""
    ROUTE_TASK = "route_task"
    """Added: to the control plane, a custom orchestrator is to decide what follows a result."""


class QueueMessageStats(BaseModel):
    """When a message was published and processed; text in local time, for people only."""

    publish_time: str | None = None
    process_start_time: str | None = None
    process_end_time: str | None = None

    @staticmethod
    def timestamp_str(format: str = "%Y-%m-%d %H:%M:%S") -> str:
        """The present local time as text."""
        return _shown(int(time.time()), format)


@lru_cache(maxsize=8)
def _shown(second: int, format: str) -> str:
    return datetime.fromtimestamp(second).strftime(format)


class QueueMessage(BaseModel):
    """A message; ``type`` is the service's name (or ``control_plane``), used for routing.

    ``data`` of ``new_task`` is a task definition; its ``input`` is empty and ``input_ref`` true
    where the input is too large for a message (the store has it). A queue that keeps messages in
    memory treats ``id_`` as the identity: a second publish of a pending id changes nothing.
    """

    model_config = ConfigDict(extra="allow")

    id_: str = Field(default_factory=lambda: str(uuid.uuid4()))
    publisher_id: str = "default"
    data: dict[str, Any] = Field(default_factory=dict)
    action: ActionTypes | None = None
    stats: QueueMessageStats = Field(default_factory=QueueMessageStats)
    type: str = "default"


def topic_name(namespace: str, message_type: str) -> str:
    """The topic of a service (or of ``control_plane``): ``<namespace>.<message_type>``."""
    return f"{namespace}.{message_type}"


def inbox_topic(namespace: str, worker_id: str) -> str:
    """The topic of one worker alone: nudges about events and cancels; losing one is repaired."""
    return f"{namespace}.inbox.{worker_id}"


def is_inbox_topic(topic: str) -> bool:
    """Whether it may be one of :func:`inbox_topic`: nobody keeps messages for it."""
    return ".inbox." in topic


def topics_of(namespace: str, topics: Iterable[str]) -> list[str]:
    """Those of ``topics`` that are a namespace's, in alphabetical order.

    Namespaces and services may have dots in their names: ``app.v2.echo`` is the service ``v2.echo``
    of ``app``, or ``echo`` of ``app.v2``. It belongs to the longest namespace that has a topic for
    its control plane, which each deployment has before any other.
    """
    found = set(topics)
    suffix = topic_name("", CONTROL_PLANE_NAME)
    longer = [
        topic_name(topic.removesuffix(suffix), "")
        for topic in found
        if topic.endswith(suffix) and topic.startswith(namespace + ".")
    ]
    others = tuple(prefix for prefix in longer if prefix != topic_name(namespace, ""))
    return sorted(
        topic
        for topic in found
        if topic.startswith(topic_name(namespace, "")) and not topic.startswith(others)
    )
