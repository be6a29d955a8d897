"""Message queues: one contract (``base``), a table of adapters (``registry``), a file for each.

The names of LlamaDeploy 0.8.1 can be imported from here. They are loaded when first used, so
that a process pays only for the adapter it has.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "AWSMessageQueue": "unavailable",
    "AWSMessageQueueConfig": "config",
    "KafkaMessageQueue": "unavailable",
    "KafkaMessageQueueConfig": "config",
    "RabbitMQMessageQueue": "rabbitmq.queue",
    "RabbitMQMessageQueueConfig": "config",
    "RedisMessageQueue": "redis.queue",
    "RedisMessageQueueConfig": "config",
    "SimpleMessageQueue": "simple.client",
    "SimpleMessageQueueConfig": "config",
    "SimpleMessageQueueServer": "simple.server",
    "SolaceMessageQueue": "unavailable",
    "SolaceMessageQueueConfig": "config",
    "open_queue": "registry",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605 - a list of strings, from the table above


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
