"""The parts of a broker's address, as 0.8.1 takes them, -> one URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

_PARTS = ("host", "port", "db", "username", "password", "ssl", "vhost", "secure")


def fold_address(queue_type: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with host, port, user and the like folded into ``url``; no Nones.

    A host wins over a URL, as in 0.8.1. Unlike there, a port is not needed for the host to count
    (its defaults: redis 6379, kafka 9092), user and password are percent-encoded, and RabbitMQ's
    virtual host is kept when there is a port.
    """
    given = {key: value for key, value in options.items() if value is not None}
    build = _BUILDERS.get(queue_type)
    if build is None:
        return given
    if "host" in given:
        given["url"] = build(given)
    return {key: value for key, value in given.items() if key not in _PARTS}


def _redis(parts: Mapping[str, Any]) -> str:
    scheme = "rediss" if parts.get("ssl") else "redis"
    url = f"{scheme}://{_login(parts)}{parts['host']}:{parts.get('port', 6379)}"
    return f"{url}/{parts['db']}" if "db" in parts else url


def _rabbitmq(parts: Mapping[str, Any]) -> str:
    scheme = "amqps" if parts.get("secure") else "amqp"
    port = f":{parts['port']}" if "port" in parts else ""
    vhost = f"/{quote(parts['vhost'], safe='')}" if "vhost" in parts else "/"
    return f"{scheme}://{_login(parts)}{parts['host']}{port}{vhost}"


def _kafka(parts: Mapping[str, Any]) -> str:
    return f"{parts['host']}:{parts.get('port', 9092)}"


def _login(parts: Mapping[str, Any]) -> str:
    user, password = parts.get("username", ""), parts.get("password")
    secret = f":{quote(password, safe='')}" if password else ""
    return f"{quote(user, safe='')}{secret}@" if user or secret else ""


ADDRESS_FIELDS = ("url", *_PARTS)
"""The fields of a broker's configuration that its ``url`` says all of."""

DEFAULT_URLS = {
    "redis": "redis://localhost:6379",
    "rabbitmq": "amqp://guest:guest@localhost/",
    "kafka": "localhost:9092",
}
"""Where 0.8.1 looks for a broker that has no address."""

_BUILDERS = {"redis": _redis, "rabbitmq": _rabbitmq, "kafka": _kafka}
