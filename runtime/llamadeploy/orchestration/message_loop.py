"""Messages to the control plane: routes of custom orchestrators, and services of 0.8.1's kind."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

from llamadeploy.exceptions import (
    ConflictError,
    LlamaDeployError,
    NotFoundError,
    QueueError,
    StoreUnavailableError,
)
from llamadeploy.message_queues.base import Delivery, MessageQueue
from llamadeploy.messages import ActionTypes, QueueMessage
from llamadeploy.state_stores.base import StateStore

log = logging.getLogger(__name__)

GROUP = "control_plane"
PREFETCH = 64
RETRY_SECONDS = 0.5
"""Pause before the queue or store is tried again."""


class MessageLoop:
    """Feeds a topic's messages to ``process``; what cannot be understood is put aside.

    Args:
        process: raises ConfigurationError (poison), NotFoundError or ConflictError (nothing to
            do any more), StoreUnavailableError (try again).
    """

    def __init__(
        self,
        queue: MessageQueue,
        store: StateStore,
        topic: str,
        process: Callable[[QueueMessage], Awaitable[None]],
    ) -> None:
        self._queue = queue
        self._store = store
        self._topic = topic
        self._process = process

    async def run(self) -> None:
        """Consume until cancelled."""
        while True:
            try:
                consumer = self._queue.consume(self._topic, group=GROUP, prefetch=PREFETCH)
                async with consumer, asyncio.TaskGroup() as routes:
                    async for delivery in consumer:
                        if delivery.message.action == ActionTypes.ROUTE_TASK:
                            # A user's orchestrator may take its time over one task.
                            routes.create_task(self._handle(delivery))
                        else:
                            await self._handle(delivery)
            except* QueueError as errors:
                for error in errors.exceptions:
                    log.warning("topic %s cannot be consumed now: %s", self._topic, error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _handle(self, delivery: Delivery) -> None:
        message = delivery.message
        try:
            reason = await self._try(message)
            if reason is not None:
                log.error("message %s becomes a dead letter: %s", message.id_, reason)
                text = json.dumps(message.model_dump(mode="json"))
                await self._store.add_dead_letter(reason, text)
        except StoreUnavailableError as error:
            log.warning("message %s is handed back: %s", message.id_, error)
            await asyncio.sleep(RETRY_SECONDS)
            await delivery.nack()
            return
        await delivery.ack()

    async def _try(self, message: QueueMessage) -> str | None:
        """Why the message cannot be processed, ``None`` when it was."""
        try:
            await self._process(message)
        except (NotFoundError, ConflictError) as error:
            log.info("message %s is of no use any more: %s", message.id_, error)
        except StoreUnavailableError:
            raise
        except LlamaDeployError as error:
            return str(error)
        except Exception as error:
            # A message that makes us fail would fail for ever: it is kept for people.
            log.exception("message %s cannot be processed", message.id_)
            return f"{type(error).__name__}: {error}"
        return None
