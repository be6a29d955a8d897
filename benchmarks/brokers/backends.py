"""Servers of the run's own: Redis, RabbitMQ with PostgreSQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.brokers.postgresql import PostgreSQLServer
from tests.brokers.rabbitmq import RabbitMQServer
from tests.brokers.redis import RedisServer

from benchmarks.servers import Backend


@dataclass(frozen=True)
class Pair:
    """A queue and a store that run.

    Attributes:
        queue_url: of the broker.
        processes: their process ids, by name.
        original: the broker as llama-deploy 0.8.1 takes it.
    """

    name: str
    backend: Backend
    queue_url: str
    processes: dict[str, Sequence[int]]
    original: Backend


@contextmanager
def redis(fsync: str = "everysec") -> Iterator[Pair]:
    """Redis as queue and as store, with its log on disk.

    Args:
        fsync: Redis's `appendfsync`.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-redis-") as folder:
        server = RedisServer(Path(folder), "--appendonly", "yes", "--appendfsync", fsync)
        server.start()
        try:
            assert server.process is not None
            url = server.uri
            yield Pair(
                name=f"Redis + Redis, appendfsync {fsync}",
                backend=Backend({"type": "redis", "url": url, "exclusive_mode": True}, url),
                queue_url=url,
                processes={"redis-server": [server.process.pid]},
                # Its own setting for one consumer per message.
                original=Backend({"type": "redis", "url": url, "exclusive_mode": True}),
            )
        finally:
            server.stop()


@contextmanager
def rabbitmq_and_postgresql() -> Iterator[Pair]:
    """RabbitMQ as queue, PostgreSQL as store, both as they are installed: they write to disk
    before they confirm or commit."""
    broker_folder = tempfile.TemporaryDirectory(
        prefix="benchmark-rabbitmq-", ignore_cleanup_errors=True
    )
    store_folder = tempfile.TemporaryDirectory(prefix="benchmark-postgresql-")
    with broker_folder, store_folder:
        broker = RabbitMQServer(Path(broker_folder.name))
        store = PostgreSQLServer(Path(store_folder.name))
        store.create()
        try:
            broker.start()
            store.start()
            assert broker.process is not None
            assert store.process is not None
            queue = {"type": "rabbitmq", "url": broker.url()}
            yield Pair(
                name="RabbitMQ + PostgreSQL",
                backend=Backend(queue, store.uri),
                queue_url=broker.url(),
                processes={"rabbitmq": [broker.process.pid], "postgres": [store.process.pid]},
                original=Backend(queue),
            )
        finally:
            store.stop()
            broker.close()
