"""What the message queue itself gave up becomes errors of tasks, and letters for people."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from llamadeploy.exceptions import LlamaDeployError, QueueError, StoreUnavailableError
from llamadeploy.logs import redact
from llamadeploy.message_queues.base import DeadDelivery, KeepsDeadLetters
from llamadeploy.messages import ActionTypes, QueueMessage
from llamadeploy.orchestration.outbox import Outbox
from llamadeploy.state_stores.base import StateStore

log = logging.getLogger(__name__)

TOPICS_SECONDS = 5.0
"""How soon the dead letters of a new service are looked after."""

RETRY_SECONDS = 0.5
"""Pause before the queue or store is tried again."""

PREFETCH = 16

EXCERPT_BYTES = 500
"""How much of a message that cannot be read is kept."""


class DeadLetterLoop:
    """Consumes the dead letters of a deployment's topics.

    Args:
        topics: those there are now.
    """

    def __init__(
        self,
        store: StateStore,
        queue: KeepsDeadLetters,
        outbox: Outbox,
        topics: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._store = store
        self._queue = queue
        self._outbox = outbox
        self._topics = topics

    async def run(self) -> None:
        """Consume until cancelled."""
        consuming: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    topics = set(await self._topics())
                except LlamaDeployError as error:
                    log.warning("dead letters of new services wait: %s", error)
                    topics = set(consuming)
                for topic in topics - consuming.keys():
                    consuming[topic] = group.create_task(self._consume(topic))
                for topic in consuming.keys() - topics:
                    consuming.pop(topic).cancel()
                await asyncio.sleep(TOPICS_SECONDS)

    async def _consume(self, topic: str) -> None:
        while True:
            try:
                async with self._queue.dead_letters(topic, prefetch=PREFETCH) as letters:
                    async for letter in letters:
                        await self._handle(letter)
            except QueueError as error:
                log.warning("dead letters of %s cannot be consumed now: %s", topic, error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _handle(self, letter: DeadDelivery) -> None:
        try:
            await self._keep(letter)
        except StoreUnavailableError as error:
            log.warning("a dead letter of %s is handed back: %s", letter.topic, error)
            await asyncio.sleep(RETRY_SECONDS)
            await letter.nack()
            return
        await letter.ack()

    async def _keep(self, letter: DeadDelivery) -> None:
        service = letter.topic.rpartition(".")[2]
        try:
            message = QueueMessage.model_validate_json(letter.body)
            await self._give_up(message, letter, service)
            return
        except StoreUnavailableError:
            raise
        except ValidationError as error:
            problem = _problem(error)
        except Exception as error:
            # A message that makes us fail would fail for ever: it is kept for people.
            log.exception("a dead letter of %s cannot be dealt with", letter.topic)
            problem = type(error).__name__
        reason = f"a message of topic {letter.topic} cannot be read: {problem}"
        log.error("%s", reason)
        await self._store.add_dead_letter(reason, excerpt(letter.body), service)

    async def _give_up(self, message: QueueMessage, letter: DeadDelivery, service: str) -> None:
        reason = f"the message queue gave message {printable(message.id_)} up: {letter.reason}"
        task_id = message.data.get("task_id")
        if message.action is not ActionTypes.NEW_TASK or not isinstance(task_id, str):
            await self._store.add_dead_letter(reason, message.model_dump_json(), service)
            return
        ended = await self._store.give_up(task_id, reason)
        if ended.accepted:
            log.error("task %s failed: %s", task_id, reason)
            await self._outbox.publish(ended.publish)
        else:
            log.info("task %s needs none of its messages any more: %s", task_id, reason)


def printable(text: str) -> str:
    """``text`` with everything escaped that does not show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def excerpt(body: bytes) -> str:
    """The beginning of a body as text that can be shown: what is no text is escaped, passwords in
    URLs are not there."""
    shown = redact(printable(body[:EXCERPT_BYTES].decode("utf-8", "backslashreplace")))
    return shown if len(body) <= EXCERPT_BYTES else f"{shown}... ({len(body)} bytes)"


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"
