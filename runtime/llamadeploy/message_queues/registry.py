"""Which message queues there are, and how to open one. The table is data; adapters load late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import unquote

from llamadeploy.exceptions import ConfigurationError, UnsupportedFeatureError
from llamadeploy.message_queues import config as configs
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.config import QueueConfig, SimpleMessageQueueConfig
from llamadeploy.settings import load_settings
from llamadeploy.urls import split_url


@dataclass(frozen=True, slots=True)
class QueueType:
    """One type of message queue.

    Attributes:
        module: the adapter's module within this package.
        adapter: the adapter's class in it; takes the configuration as its first argument.
        config: the configuration's class.
        unavailable: why it cannot be opened, empty where it can.
    """

    module: str
    adapter: str
    config: type[QueueConfig]
    unavailable: str = ""


_LATER = "is not available in this release: use type 'simple'"

QUEUE_TYPES: Mapping[str, QueueType] = {
    "simple": QueueType("simple.client", "SimpleMessageQueue", configs.SimpleMessageQueueConfig),
    "redis": QueueType("redis.queue", "RedisMessageQueue", configs.RedisMessageQueueConfig),
    "rabbitmq": QueueType(
        "rabbitmq.queue", "RabbitMQMessageQueue", configs.RabbitMQMessageQueueConfig
    ),
    "kafka": QueueType("unavailable", "KafkaMessageQueue", configs.KafkaMessageQueueConfig, _LATER),
    "aws": QueueType("unavailable", "AWSMessageQueue", configs.AWSMessageQueueConfig, _LATER),
    "solace": QueueType(
        "unavailable",
        "SolaceMessageQueue",
        configs.SolaceMessageQueueConfig,
        "is not supported: use simple, redis, rabbitmq, kafka or aws",
    ),
}


def queue_type(name: str) -> QueueType:
    """The table's entry.

    Raises:
        ConfigurationError: unknown name; lists the known ones.
    """
    if name not in QUEUE_TYPES:
        known = ", ".join(sorted(QUEUE_TYPES))
        raise ConfigurationError(f"message queue type {name!r} is unknown: use one of {known}")
    return QUEUE_TYPES[name]


def queue_config(type: str, **values: Any) -> QueueConfig:
    """The configuration of a type from ``values`` and its environment prefix (laptop, manual
    orchestration).

    Raises:
        ConfigurationError: names the field or variable that is wrong.
    """
    return load_settings(queue_type(type).config, **values)


def queue_from_config(config: QueueConfig, *, token: str | None = None) -> MessageQueue:
    """The adapter of a configuration.

    Raises:
        UnsupportedFeatureError: the type is not available.
    """
    name: str = config["type"]
    entry = queue_type(name)
    if entry.unavailable:
        raise UnsupportedFeatureError(f"the message queue {name!r} {entry.unavailable}")
    adapter = getattr(import_module(f"{__package__}.{entry.module}"), entry.adapter)
    # Only our own server takes our token; brokers have credentials in their configuration.
    arguments = {"token": token} if isinstance(config, SimpleMessageQueueConfig) else {}
    queue: MessageQueue = adapter(config, **arguments)
    return queue


def open_queue(
    type: str, url: str | None = None, options: Mapping[str, Any] | None = None
) -> MessageQueue:
    """Open a queue from these arguments alone; the environment is not read (pods).

    Args:
        type: a key of :data:`QUEUE_TYPES`.
        url: where it is; for ``simple`` ``http[s]://[user:TOKEN@]host[:port]``.
        options: other fields of the type's configuration, and for ``simple`` a ``token``.

    Raises:
        ConfigurationError: unknown type or option, or a wrong value.
        UnsupportedFeatureError: the type is not available.
    """
    config_class = queue_type(type).config
    values = dict(options or {})
    token = values.pop("token", None) if type == "simple" else None
    if url is not None and type == "simple":
        address, url_token = _simple_address(url)
        values.update(address)
        token = token or url_token
    elif url is not None:
        values["url"] = url
    config = config_class.without_environment(**values)
    return queue_from_config(config, token=token)


def _simple_address(url: str) -> tuple[dict[str, Any], str | None]:
    try:
        parts = split_url(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"the simple queue's URL is wrong: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            "the simple queue's URL is wrong: it must be http[s]://host[:port]"
        )
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigurationError(
            f"the simple queue's URL is wrong: nothing may follow host and port, not {parts.path!r}"
        )
    secure = parts.scheme == "https"
    address = {
        "host": parts.hostname,
        "port": port or (443 if secure else 80),
        "use_ssl": secure,
    }
    return address, unquote(parts.password) if parts.password else None
