"""Where rounds take place: a cluster on a pair, with proxies for its network or without."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from chaos.cluster import Cluster, running
from chaos.proxy import Proxy
from chaos.servers import Pair


@dataclass
class Field:
    """Where a round takes place.

    Attributes:
        proxies: by their names: ``broker``, ``store``, ``worker`` (one worker's way to both).
        pause: seconds for which something is stopped or cut off.
    """

    cluster: Cluster
    proxies: dict[str, list[Proxy]] = field(default_factory=dict)
    pause: float = 60.0
    _number: int = 0

    def take_numbers(self, count: int) -> int:
        """The first of ``count`` numbers that no other task of this cluster has."""
        first, self._number = self._number, self._number + count
        return first


@contextlib.asynccontextmanager
async def field_on(
    servers: Pair, keep: Path | None, proxied: bool, pause: float
) -> AsyncIterator[Field]:
    """A cluster of two of each; with proxies between it and the servers, or without."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(
            tempfile.mkdtemp(dir=keep)
            if keep
            else stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-"))
        )
        if not proxied:
            yield Field(
                await stack.enter_async_context(running(Cluster(servers, folder))), {}, pause
            )
            return
        broker, store, worker_broker, worker_store = [
            await stack.enter_async_context(Proxy(server.port))
            for server in (servers.broker, servers.store) * 2
        ]
        far = {
            "service": "work",
            "path": "workflow:work",
            "queue_url": _through(servers.queue_url, servers.broker.port, worker_broker),
            "state_store_uri": _through(servers.store_uri, servers.store.port, worker_store),
        }
        cluster = Cluster(
            servers, folder, {"work": {}, "far": far},
            queue_url=_through(servers.queue_url, servers.broker.port, broker),
            store_uri=_through(servers.store_uri, servers.store.port, store),
        )  # fmt: skip
        proxies = {
            "broker": [broker, worker_broker],
            "store": [store, worker_store],
            "worker": [worker_broker, worker_store],
        }
        yield Field(await stack.enter_async_context(running(cluster)), proxies, pause)


def _through(url: str, port: int, proxy: Proxy) -> str:
    return url.replace(f":{port}", f":{proxy.port}")
