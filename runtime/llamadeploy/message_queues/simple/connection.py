"""HTTP requests to the simple queue's server, and what their failures mean."""

from __future__ import annotations

import asyncio
import random
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from llamadeploy.exceptions import ConfigurationError, QueueError, QueueUnavailableError
from llamadeploy.http.client import HttpClient, HttpConnectionError
from llamadeploy.message_queues.config import SimpleMessageQueueConfig

REQUEST_SECONDS = 10.0
"""How long an answer may take (on top of the time a request asks the server to wait)."""

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


class Connection:
    """One pool of connections to one server, made when first used.

    Args:
        config: where the server is; ``client_kwargs`` may set ``timeout`` and ``headers``.
        token: sent as a bearer token.
    """

    def __init__(self, config: SimpleMessageQueueConfig, token: str | None = None) -> None:
        self._base_url = config.base_url
        self._timeout = _seconds(config.client_kwargs.get("timeout"))
        headers = _headers(config.client_kwargs)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._http = HttpClient(self._base_url, headers)
        self._closed = False

    async def request(self, method: str, path: str, body: Any = None, wait: float = 0.0) -> bytes:
        """The body of the reply.

        Every request to this server may be repeated safely, so one that finds its pooled
        connection closed is sent once more.

        Raises:
            QueueUnavailableError: no connection, no answer in time, or the server said 5xx.
            QueueError: the server refused (4xx): repeating it will not help.
        """
        if self._closed:
            raise QueueUnavailableError("this message queue was closed")
        data = None if body is None else _encode(body)
        try:
            reply = await self._http.request(method, f"/{path}", data, timeout=self._timeout + wait)
        except TimeoutError as error:
            raise QueueUnavailableError(
                f"the message queue at {self._base_url} did not answer in time"
            ) from error
        except HttpConnectionError as error:
            raise QueueUnavailableError(
                f"the message queue at {self._base_url} cannot be reached: {error}"
            ) from error
        if reply.status >= 500:
            raise QueueUnavailableError(
                f"the message queue at {self._base_url} is not available now: {_detail(reply.body)}"
            )
        if reply.status >= 400:
            raise QueueError(
                f"the message queue at {self._base_url} refused {method} /{path} "
                f"({reply.status}): {_detail(reply.body)}"
            )
        return reply.body

    async def call(
        self,
        reply: msgspec.json.Decoder[T],
        method: str,
        path: str,
        body: Any = None,
        wait: float = 0.0,
    ) -> T:
        """Like :meth:`request`, with the reply decoded."""
        content = await self.request(method, path, body, wait)
        try:
            return reply.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise QueueUnavailableError(
                f"what answers at {self._base_url} is no message queue of ours: {error}"
            ) from error

    async def aclose(self) -> None:
        """Release the connections. Idempotent."""
        self._closed = True
        await self._http.aclose()


class Backoff:
    """Growing, jittered delays between attempts: seconds from ``first`` up to ``limit``."""

    def __init__(self, first: float = 0.05, limit: float = 5.0) -> None:
        self._first = first
        self._limit = limit
        self._next = first

    def reset(self) -> None:
        """The attempt went well."""
        self._next = self._first

    async def wait(self) -> None:
        """Wait, longer each time; half of it is chance, so that clients do not come in step."""
        delay, self._next = self._next, min(self._limit, self._next * 2)
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret


def topic_path(topic: str) -> str:
    """A topic's name as one segment of a URL path.

    Raises:
        ConfigurationError: the name is empty or has a slash.
    """
    if not topic or "/" in topic:
        raise ConfigurationError(
            f"topic {topic!r} cannot be used: a topic's name is not empty and has no '/'"
        )
    return quote(topic, safe="")


def _detail(content: bytes) -> str:
    try:
        return str(msgspec.json.decode(content)["detail"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace")


def _seconds(timeout: Any) -> float:
    if timeout is None:
        return REQUEST_SECONDS
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise ConfigurationError(
            f"client_kwargs.timeout is {timeout!r}: it must be a number of seconds above 0"
        )
    return float(timeout)


def _headers(client_kwargs: dict[str, Any]) -> dict[str, str]:
    headers = client_kwargs.get("headers") or {}
    if not isinstance(headers, dict):
        raise ConfigurationError("client_kwargs.headers is wrong: it must map names to values")
    return {str(name): str(value) for name, value in headers.items()}
