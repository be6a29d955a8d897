"""HTTP for the SDK: one pooled connection set per event loop, errors translated in one place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from llamadeploy.client.errors import raise_for_status


class Transport:
    """Sends requests; connections are kept and reused within an event loop.

    Args:
        timeout: seconds for a whole reply; ``None`` waits for ever.
        verify: whether TLS certificates are checked.
        token: sent as a bearer token.
    """

    def __init__(self, timeout: float | None, verify: bool, token: str | None) -> None:
        self._timeout = timeout
        self._verify = verify
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            WeakKeyDictionary()
        )

    def _pool(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or pool.is_closed:
            pool = httpx.AsyncClient(
                verify=self._verify, timeout=self._timeout, headers=self._headers
            )
            self._pools[loop] = pool
        return pool

    def longer(self, seconds: float | None) -> float | None:
        """The time-out of a request that the server takes ``seconds`` for by itself."""
        return None if self._timeout is None else self._timeout + (seconds or 0.0)

    async def request(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        """One request.

        Raises:
            ServerError: the server refused it.
            httpx.TransportError: the server could not be reached or did not answer in time.
        """
        response = await self._pool().request(method, url, **kwargs)
        raise_for_status(response)
        return response

    async def lines(
        self, url: str, params: dict[str, Any] | None = None
    ) -> AsyncGenerator[dict[str, Any]]:
        """The JSON objects of an ndjson reply as they arrive; a quiet stream never times out.

        Raises:
            ServerError: the server refused it.
        """
        timeout = httpx.Timeout(self._timeout, read=None)
        async with self._pool().stream("GET", url, params=params, timeout=timeout) as response:
            if response.status_code >= 400:
                await response.aread()
            raise_for_status(response)
            async for line in response.aiter_lines():
                if line.strip():
                    yield json.loads(line)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.aclose()
