"""What is wrong with a URL is said without its password."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.message_queues.registry import open_queue
from llamadeploy.state_stores.registry import open_store
from llamadeploy.urls import split_url

ADDRESSES = {
    "redis": "redis://user:{}@127.0.0.1:1/0",
    "rabbitmq": "amqp://user:{}@127.0.0.1:1/",
    "simple": "http://user:{}@127.0.0.1:1",
}
STORES = ["redis://user:{}@127.0.0.1:1/0", "postgresql://user:{}@127.0.0.1:1/app"]
PASSWORDS = {
    "s3c/ret": "%2F",
    "123/ret": "%2F",
    "s3c#ret": "%23",
    "s3c?ret": "%3F",
    "s3c]ret": "%5D",
}


@pytest.mark.defect(22)
@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("kind", ADDRESSES)
def test_a_queues_url(kind: str, password: str) -> None:
    with pytest.raises(ConfigurationError, match=PASSWORDS[password]) as raised:
        open_queue(kind, ADDRESSES[kind].format(password))
    for part in (password, password[:3], password[4:]):
        assert part not in str(raised.value)


@pytest.mark.defect(22)
@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("uri", STORES)
async def test_a_stores_uri(uri: str, password: str) -> None:
    with pytest.raises(ConfigurationError, match=PASSWORDS[password]) as raised:
        await open_store(uri.format(password), "ns")
    for part in (password, password[:3], password[4:]):
        assert part not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:p%2F%40@h:1,other/0?sentinel=name",
        "unix:///run/a@b.sock?db=0",
        "amqp://u:p@h/my@vhost",
        "postgresql://u:p@[::1]:5432/app?user=a@b",
    ],
)
def test_what_is_right_is_left_alone(url: str) -> None:
    assert split_url(url) == urlsplit(url)


def test_a_port_is_a_number() -> None:
    with pytest.raises(ValueError, match="port must be a number"):
        split_url("amqp://h:port/")
