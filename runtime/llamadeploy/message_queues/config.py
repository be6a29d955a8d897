"""Settings of the message queues: fields, environment prefixes and defaults of LlamaDeploy 0.8.1.

Each can be spread as keyword arguments (``Queue(**Config())``). Credentials do not show in a
``repr``, an error or :meth:`QueueConfig.public`.
"""

from __future__ import annotations

from typing import Any, Literal, Self
from urllib.parse import quote

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from llamadeploy.logs import redact
from llamadeploy.settings import load_settings

_UNREAD_PREFIX = "LLAMADEPLOY_NEVER_SET_"


class QueueConfig(BaseSettings):
    """Base of the settings of one type of message queue."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    def keys(self) -> list[str]:
        """The names of the fields without ``type``; with ``[]`` this makes ``**config`` work."""
        return [name for name in type(self).model_fields if name != "type"]

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).model_fields:
            raise KeyError(name)
        return getattr(self, name)

    @classmethod
    def without_environment(cls, **values: Any) -> Self:
        """Made from ``values`` and the defaults alone, as in a pod, where ``REDIS_PORT`` may be a
        service link of Kubernetes.

        Raises:
            ConfigurationError: names the field and what was wrong.
        """
        return load_settings(cls, _env_prefix=_UNREAD_PREFIX, **values)

    def public(self) -> dict[str, Any]:
        """The settings that anybody may see: no passwords or tokens."""
        shown = {name: self[name] for name in self.keys() if name not in _SECRET_FIELDS}
        return {k: redact(v) if isinstance(v, str) else v for k, v in shown.items()}


_SECRET_FIELDS = frozenset(
    {"password", "aws_access_key_id", "aws_secret_access_key", "client_kwargs"}
)


class SimpleMessageQueueConfig(QueueConfig):
    """The queue in memory (``SIMPLE_MESSAGE_QUEUE_*``).

    ``client_kwargs`` may hold ``timeout`` (seconds) and ``headers``; 0.8.1 gave them to httpx.
    ``raise_exceptions`` is kept for 0.8.1's callers and has no effect.
    """

    model_config = SettingsConfigDict(env_prefix="SIMPLE_MESSAGE_QUEUE_")

    type: Literal["simple"] = Field(default="simple", exclude=True)
    host: str = "127.0.0.1"
    port: int = Field(default=8001, ge=0, le=65535)
    client_kwargs: dict[str, Any] = Field(default_factory=dict, repr=False)
    raise_exceptions: bool = False
    use_ssl: bool = False

    @property
    def base_url(self) -> str:
        """URL of the server, with a slash at the end."""
        scheme = "https" if self.use_ssl else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}/" if self.port == 80 else f"{scheme}://{host}:{self.port}/"


class RedisMessageQueueConfig(QueueConfig):
    """Redis (``REDIS_*``); ``host`` and what belongs to it win over ``url``."""

    model_config = SettingsConfigDict(env_prefix="REDIS_")

    type: Literal["redis"] = Field(default="redis", exclude=True)
    url: str = Field(default="redis://localhost:6379", repr=False)
    host: str | None = None
    port: int | None = None
    db: int | None = None
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    ssl: bool | None = None
    exclusive_mode: bool = False

    def model_post_init(self, context: Any) -> None:
        """Compose ``url``."""
        if self.host:
            scheme = "rediss" if self.ssl else "redis"
            database = "" if self.db is None else self.db
            user = _userinfo(self.username, self.password)
            self.url = f"{scheme}://{user}{self.host}:{self.port or 6379}/{database}"


class RabbitMQMessageQueueConfig(QueueConfig):
    """RabbitMQ (``RABBITMQ_*``); user, password and host together win over ``url``."""

    model_config = SettingsConfigDict(env_prefix="RABBITMQ_")

    type: Literal["rabbitmq"] = Field(default="rabbitmq", exclude=True)
    url: str = Field(default="amqp://guest:guest@localhost/", repr=False)
    exchange_name: str = "llama-deploy"
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    vhost: str | None = None
    secure: bool | None = None

    def model_post_init(self, context: Any) -> None:
        """Compose ``url``; unlike 0.8.1 also with both a port and a virtual host."""
        if self.username and self.password and self.host:
            scheme = "amqps" if self.secure else "amqp"
            port = f":{self.port}" if self.port else ""
            vhost = f"/{quote(self.vhost, safe='')}" if self.vhost else ""
            user = _userinfo(self.username, self.password)
            self.url = f"{scheme}://{user}{self.host}{port}{vhost}"


class KafkaMessageQueueConfig(QueueConfig):
    """Apache Kafka (``KAFKA_*``); ``url`` is ``host:port``, and ``host`` wins over it."""

    model_config = SettingsConfigDict(env_prefix="KAFKA_")

    type: Literal["kafka"] = Field(default="kafka", exclude=True)
    url: str = "localhost:9092"
    host: str | None = None
    port: int | None = None

    def model_post_init(self, context: Any) -> None:
        """Compose ``url``."""
        if self.host:
            self.url = f"{self.host}:{self.port or 9092}"


class AWSMessageQueueConfig(QueueConfig):
    """AWS SQS; no prefix (``AWS_REGION``, ...). Without keys the usual provider chain is used."""

    type: Literal["aws"] = Field(default="aws", exclude=True)
    aws_region: str = "us-east-1"
    aws_access_key_id: SecretStr | None = Field(default=None, exclude=True)
    aws_secret_access_key: SecretStr | None = Field(default=None, exclude=True)


class SolaceMessageQueueConfig(QueueConfig):
    """Solace (``SOLACE_*``): read, so that the refusal can name what to use instead."""

    model_config = SettingsConfigDict(env_prefix="SOLACE_")

    type: Literal["solace"] = Field(default="solace", exclude=True)
    host: str = ""
    vpn_name: str = ""
    username: str = ""
    password: str = Field(default="", repr=False)
    host_secured: str = ""
    is_queue_temporary: bool = True


def _userinfo(username: str | None, password: str | None) -> str:
    if not password:
        return f"{quote(username, safe='')}@" if username else ""
    return f"{quote(username or '', safe='')}:{quote(password, safe='')}@"
