"""Configurations, the table of types, and the queues that cannot be used yet."""

from __future__ import annotations

import pytest

import llamadeploy.message_queues as message_queues
from llamadeploy.exceptions import ConfigurationError, UnsupportedFeatureError
from llamadeploy.message_queues.base import DeliveryMode
from llamadeploy.message_queues.config import (
    AWSMessageQueueConfig,
    KafkaMessageQueueConfig,
    QueueConfig,
    RabbitMQMessageQueueConfig,
    RedisMessageQueueConfig,
    SimpleMessageQueueConfig,
)
from llamadeploy.message_queues.redis.queue import RedisMessageQueue
from llamadeploy.message_queues.registry import (
    QUEUE_TYPES,
    open_queue,
    queue_config,
    queue_from_config,
)
from llamadeploy.message_queues.simple.client import SimpleMessageQueue
from llamadeploy.message_queues.unavailable import (
    AWSMessageQueue,
    KafkaMessageQueue,
    SolaceMessageQueue,
    UnavailableMessageQueue,
)
from llamadeploy.messages import QueueMessage

UNAVAILABLE = [AWSMessageQueue, KafkaMessageQueue]

DEFAULTS = {
    "simple": {
        "host": "127.0.0.1",
        "port": 8001,
        "client_kwargs": {},
        "raise_exceptions": False,
        "use_ssl": False,
    },
    "redis": {
        "url": "redis://localhost:6379",
        "host": None,
        "port": None,
        "db": None,
        "username": None,
        "password": None,
        "ssl": None,
        "exclusive_mode": False,
    },
    "rabbitmq": {
        "url": "amqp://guest:guest@localhost/",
        "exchange_name": "llama-deploy",
        "username": None,
        "password": None,
        "host": None,
        "port": None,
        "vhost": None,
        "secure": None,
    },
    "kafka": {"url": "localhost:9092", "host": None, "port": None},
    "aws": {
        "aws_region": "us-east-1",
        "aws_access_key_id": None,
        "aws_secret_access_key": None,
    },
    "solace": {
        "host": "",
        "vpn_name": "",
        "username": "",
        "password": "",
        "host_secured": "",
        "is_queue_temporary": True,
    },
}


@pytest.mark.parametrize("name", QUEUE_TYPES)
def test_fields_and_defaults_of_0_8_1(name: str) -> None:
    config = QUEUE_TYPES[name].config()
    assert config["type"] == name and dict(**config) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("variable", "config_class", "field"),
    [
        ("SIMPLE_MESSAGE_QUEUE_HOST", SimpleMessageQueueConfig, "host"),
        ("REDIS_URL", RedisMessageQueueConfig, "url"),
        ("RABBITMQ_URL", RabbitMQMessageQueueConfig, "url"),
        ("KAFKA_URL", KafkaMessageQueueConfig, "url"),
        ("AWS_REGION", AWSMessageQueueConfig, "aws_region"),
    ],
)
def test_environment_prefixes(
    monkeypatch: pytest.MonkeyPatch, variable: str, config_class: type[QueueConfig], field: str
) -> None:
    monkeypatch.setenv(variable, "elsewhere")
    assert config_class()[field] == "elsewhere"
    assert config_class.without_environment()[field] != "elsewhere"


@pytest.mark.parametrize(
    ("config", "url"),
    [
        (RedisMessageQueueConfig(host="h", port=1), "redis://h:1/"),
        (RedisMessageQueueConfig(host="h", port=1, db=0, ssl=True), "rediss://h:1/0"),
        (RedisMessageQueueConfig(host="h", username="u", password="p/@"), "redis://u:p%2F%40@h:6379/"),
        (RedisMessageQueueConfig(host="h", port=1, password="p"), "redis://:p@h:1/"),
        (RabbitMQMessageQueueConfig(host="h", username="u", password="p"), "amqp://u:p@h"),
        (
            RabbitMQMessageQueueConfig(
                host="h", username="u", password="p", port=1, vhost="v", secure=True
            ),
            "amqps://u:p@h:1/v",
        ),
        (RabbitMQMessageQueueConfig(host="h"), "amqp://guest:guest@localhost/"),
        (KafkaMessageQueueConfig(host="h", port=1), "h:1"),
        (KafkaMessageQueueConfig(url="x:2"), "x:2"),
    ],
)  # fmt: skip
def test_urls_are_composed(config: QueueConfig, url: str) -> None:
    assert config["url"] == url


def test_base_url_of_the_simple_queue() -> None:
    assert SimpleMessageQueueConfig().base_url == "http://127.0.0.1:8001/"
    assert SimpleMessageQueueConfig(port=80, use_ssl=True, host="h").base_url == "https://h/"
    assert SimpleMessageQueueConfig(host="::1").base_url == "http://[::1]:8001/"


def test_no_credentials_are_shown() -> None:
    configs: list[QueueConfig] = [
        RedisMessageQueueConfig(host="h", username="u", password="hunter2"),
        RedisMessageQueueConfig(url="redis://:hunter2@h"),
        RabbitMQMessageQueueConfig(host="h", username="u", password="hunter2"),
        AWSMessageQueueConfig(aws_access_key_id="hunter2", aws_secret_access_key="hunter2"),
        SimpleMessageQueueConfig(client_kwargs={"headers": {"Authorization": "hunter2"}}),
    ]
    for config in configs:
        assert "hunter2" not in repr(config) + str(config) + str(config.public())
    assert configs[0].public()["url"] == "redis://u:***@h:6379/"


@pytest.mark.parametrize("queue_class", UNAVAILABLE)
async def test_the_documented_snippet_runs_and_use_is_refused(
    queue_class: type[UnavailableMessageQueue],
) -> None:
    config = queue_class.config_class()
    for queue in (queue_class(**config), queue_class(config), queue_class()):
        assert queue.as_config() == config
        for call in (
            queue.publish("t", QueueMessage()),
            queue.ping(),
            queue.depth("t"),
            queue.delete_topic("t"),
        ):
            with pytest.raises(UnsupportedFeatureError, match=r"not available in this.*'simple'"):
                await call
        with pytest.raises(UnsupportedFeatureError, match="not available"):
            queue.consume("t", group="g")
        await queue.aclose()


def test_redis_broadcasts_unless_exclusive() -> None:
    assert RedisMessageQueue().capabilities.delivery is DeliveryMode.BROADCAST
    exclusive = RedisMessageQueue(exclusive_mode=True)
    assert exclusive.capabilities.delivery is DeliveryMode.COMPETING


def test_solace_is_refused_and_names_the_alternatives() -> None:
    with pytest.raises(UnsupportedFeatureError, match="simple, redis, rabbitmq, kafka or aws"):
        SolaceMessageQueue()
    with pytest.raises(UnsupportedFeatureError, match="simple, redis, rabbitmq, kafka or aws"):
        open_queue("solace")


def test_the_simple_queue_is_made_in_every_documented_way() -> None:
    config = SimpleMessageQueueConfig(port=9)
    made = [SimpleMessageQueue(config), SimpleMessageQueue(**config), queue_from_config(config)]
    assert all(queue.as_config() == config for queue in made)
    assert SimpleMessageQueue().as_config() == SimpleMessageQueueConfig()
    with pytest.raises(ConfigurationError, match="not both"):
        SimpleMessageQueue(config, port=3)


def test_open_queue_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLE_MESSAGE_QUEUE_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("SIMPLE_MESSAGE_QUEUE_CLIENT_KWARGS", "no json")
    queue = open_queue("simple", "https://x:to%20ken@[::1]:7/")
    assert isinstance(queue, SimpleMessageQueue)
    assert queue.as_config().base_url == "https://[::1]:7/"
    assert open_queue("simple").as_config().port == 8001  # type: ignore[attr-defined]
    monkeypatch.delenv("SIMPLE_MESSAGE_QUEUE_CLIENT_KWARGS")
    with pytest.raises(ConfigurationError, match="SIMPLE_MESSAGE_QUEUE_PORT"):
        queue_config("simple")


def test_a_json_variable_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLE_MESSAGE_QUEUE_CLIENT_KWARGS", "hunter2")
    with pytest.raises(ConfigurationError, match="client_kwargs") as caught:
        queue_config("simple")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("carrier-pigeon",), r"'carrier-pigeon' is unknown: use one of aws, kafka"),
        (("simple", "redis://h"), r"must be http\[s\]://host"),
        (("simple", "http://"), r"must be http\[s\]://host"),
        (("simple", "http://h:x"), "URL is wrong"),
        (("simple", "http://h/path"), "nothing may follow"),
        (("simple", None, {"prot": 1}), "prot: Extra inputs"),
        (("simple", None, {"port": "hunter2"}), "port: Input should be a valid integer"),
    ],
)
def test_wrong_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        open_queue(*arguments)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["kafka", "aws"])
def test_open_queue_refuses_what_is_not_available(name: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=f"'{name}' is not available in this release"):
        open_queue(name, None if name == "aws" else "x://y")


def test_every_exported_name_exists() -> None:
    for name in message_queues.__all__:
        assert getattr(message_queues, name).__name__ == name
    assert set(message_queues.__all__) <= set(dir(message_queues))
    with pytest.raises(AttributeError):
        message_queues.NoSuchQueue  # noqa: B018
