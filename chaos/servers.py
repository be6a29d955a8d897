"""Brokers and stores under chaos: the ones of ``tests/brokers``, started, killed and frozen."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

BROKERS = Path(__file__).parents[1] / "tests" / "brokers"
_T = TypeVar("_T")

_control = ThreadPoolExecutor(1, "servers")
"""One thread that lives as long as this process: Redis servers end with the thread that started
them, and starting blocks for seconds, which clients must not notice."""


async def in_control(do: Callable[..., _T], *arguments: Any) -> _T:
    """Run something that blocks on the thread of the servers."""
    return await asyncio.get_running_loop().run_in_executor(_control, do, *arguments)


def _module(name: str) -> ModuleType:
    """One of ``tests/brokers``; its folder is not in the path."""
    # What the others import comes first, by the name they know it under.
    for each, known in (("servers", "tests.brokers.servers"), (name, f"chaos_{name}")):
        if known not in sys.modules:
            spec = importlib.util.spec_from_file_location(known, BROKERS / f"{each}.py")
            assert spec is not None and spec.loader is not None
            module = sys.modules[known] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    return sys.modules[known]


@dataclass
class Pair:
    """A message queue and a state store.

    Attributes:
        broker, store: have ``kill``, ``start``, ``freeze``, ``thaw`` and ``port``.
    """

    name: str
    queue_type: str
    queue_url: str
    store_uri: str
    broker: Any
    store: Any
    queue_options: dict[str, Any] = field(default_factory=dict)


PAIRS = ("redis+redis", "rabbitmq+postgresql")


@contextlib.asynccontextmanager
async def pair(name: str) -> AsyncIterator[Pair]:
    """Servers of their own for one run; a restart finds what they answered before."""
    queue, _, store = name.partition("+")
    async with contextlib.AsyncExitStack() as stack:
        broker = await _server(stack, queue)
        state = await _server(stack, store)
        url = broker.url() if queue == "rabbitmq" else broker.uri
        options = {"exclusive_mode": True} if queue == "redis" else {}
        yield Pair(name, queue, url, state.uri, broker, state, options)


async def _server(stack: contextlib.AsyncExitStack, name: str) -> Any:
    module = _module(name)
    folder = Path(
        stack.enter_context(
            tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True)
        )
    )
    if name == "redis":
        await in_control(module.require_redis)
        server = module.RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always")
    elif name == "rabbitmq":
        await in_control(module.require_rabbitmq)
        server = module.RabbitMQServer(folder)
    else:
        await in_control(module.require_postgresql)
        server = module.PostgreSQLServer(folder)
        await in_control(server.create)
    stack.push_async_callback(in_control, getattr(server, "close", server.stop))
    await in_control(server.start)
    return server
