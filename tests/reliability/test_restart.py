"""What clients see while a server comes back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest


@pytest.mark.defect(7, 29)
async def test_clients_of_a_starting_server_are_told_to_come_again(
    laptop: Any, clients: Any
) -> None:
    """Never 404: whoever waits for a task would take it for lost."""
    users = clients(laptop)
    await users.ready()
    await users.run(1)
    laptop.kill()
    laptop.start()
    seen: list[tuple[str, int]] = []
    deadline = asyncio.get_running_loop().time() + 30
    while ("/deployments/chaos/tasks", 200) not in seen:
        assert asyncio.get_running_loop().time() < deadline, laptop.tail()
        for path in ("/readyz", "/deployments/chaos/tasks"):
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with users.http.get(laptop.url + path) as reply:
                    seen.append((path, reply.status))
                    assert reply.status in (200, 503), (path, await reply.text())
                    if path != "/readyz" and reply.status == 503:
                        assert "Retry-After" in reply.headers
    first = seen.index(("/deployments/chaos/tasks", 200))
    assert ("/deployments/chaos/tasks", 503) in seen[:first], "the test looked too late"
    assert ("/readyz", 200) not in seen[: first - 1]
