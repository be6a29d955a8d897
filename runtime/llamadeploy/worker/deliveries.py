"""What a worker reads off a delivery."""

from __future__ import annotations

from llamadeploy.messages import ActionTypes, QueueMessage

REMEMBERED = 10_000
"""Messages of a broadcast that are known to have been begun: more than are ever on their way."""


class Begun:
    """The messages of a broadcast whose tasks were begun here. A repeat of one would be run again,
    because a task may be followed also after its end."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._ids

    def add(self, message_id: str) -> None:
        """Remember it; the oldest one is forgotten for it."""
        self._ids[message_id] = None
        if len(self._ids) > REMEMBERED:
            del self._ids[next(iter(self._ids))]


class DirectDelivery:
    """A message that nobody waits to have acknowledged; the store repeats what is unfinished."""

    topic = ""

    def __init__(self, message: QueueMessage) -> None:
        self.message = message

    async def ack(self) -> None:
        """See ``base.Delivery``."""

    async def nack(self) -> None:
        """See ``base.Delivery``."""


def task_of(message: QueueMessage) -> str:
    """The task a message asks for.

    Raises:
        ValueError: the message is none that a service takes.
    """
    if message.action is not ActionTypes.NEW_TASK:
        raise ValueError(f"action {message.action} on a service's topic: only new_task is taken")
    task_id = message.data.get("task_id")
    if not isinstance(task_id, str) or not task_id:
        raise ValueError(f"data.task_id is {task_id!r}: it must be the id of a stored task")
    return task_id


def dispatch_of(message_id: str) -> int:
    """The number of the dispatch, see ``OutboxRow.message_id``; 0 for a message of others."""
    number = message_id.rpartition("/")[2]
    return int(number) if number.isascii() and number.isdigit() else 0
