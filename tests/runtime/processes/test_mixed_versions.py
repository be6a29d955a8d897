"""Processes of this release beside those of the next one: its messages, its records, its schema."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from llamadeploy.message_queues.registry import open_queue
from llamadeploy.messages import QueueMessage, topic_name
from llamadeploy.state_stores.records import NewTask
from llamadeploy.state_stores.registry import open_store

ANSWER = json.dumps(
    {
        "__is_pydantic": True,
        "value": {"_data": {"response": "yes"}},
        "qualified_name": "workflows.events.HumanResponseEvent",
    }
)


class NextRedis:
    """What the next release does to the keys of a namespace."""

    def __init__(self, backend: Any) -> None:
        self._redis = Redis.from_url(backend.state_store_uri)
        self._prefix = f"llamadeploy:{{{backend.namespace}}}:"

    async def extend(self, task: str) -> None:
        key = f"{self._prefix}t:{task}"
        record = msgspec.msgpack.decode(await self._redis.get(key))
        record["next_release"] = {"minor": 9}
        await self._redis.set(key, msgspec.msgpack.encode(record))

    async def extension(self, task: str) -> Any:
        record = msgspec.msgpack.decode(await self._redis.get(f"{self._prefix}t:{task}"))
        return record["next_release"]

    async def migrate(self) -> None:
        await self._redis.set(f"{self._prefix}schema", 99)

    async def aclose(self) -> None:
        await self._redis.aclose()


class NextPostgreSQL:
    """What the next release does to the tables of a schema."""

    def __init__(self, backend: Any) -> None:
        self._dsn, _, self._schema = backend.state_store_uri.partition("?schema=")

    async def _do(self, statement: str, *values: Any) -> Any:
        connection = await asyncpg.connect(self._dsn, server_settings={"search_path": self._schema})
        try:
            return await connection.fetchval(statement, *values)
        finally:
            await connection.close()

    async def extend(self, task: str) -> None:
        await self._do("ALTER TABLE tasks ADD COLUMN next_release text NOT NULL DEFAULT ''")
        await self._do("ALTER TABLE sessions ADD COLUMN next_release text NOT NULL DEFAULT ''")
        await self._do("UPDATE tasks SET next_release = '9' WHERE task_id = $1", task)

    async def extension(self, task: str) -> Any:
        return await self._do("SELECT next_release FROM tasks WHERE task_id = $1", task)

    async def migrate(self) -> None:
        await self._do("UPDATE schema_version SET version = 99")

    async def aclose(self) -> None:
        pass


@asynccontextmanager
async def next_release(backend: Any) -> Any:
    kind = NextRedis if backend.queue_type == "redis" else NextPostgreSQL
    migrating = kind(backend)
    queue = open_queue(backend.queue_type, backend.queue_url, backend.queue_options)
    store = await open_store(backend.state_store_uri, backend.namespace)
    try:
        yield migrating, queue, store
    finally:
        await queue.aclose()
        await store.aclose()
        await migrating.aclose()


@pytest.mark.rule(18)
@pytest.mark.filterwarnings("ignore:Pydantic serializer")
async def test_neighbouring_releases_work_side_by_side(
    deploy: Any, apis: Any, until: Any, backend: Any, unique: str
) -> None:
    if backend.queue_type != "redis":
        # A schema of its own: what happens to its tables concerns no other test.
        uri = f"{backend.state_store_uri}?schema={unique}"
        backend = replace(backend, state_store_uri=uri)
    cluster = await deploy(backend, control_planes=2)
    first, second = apis(cluster)
    async with next_release(backend) as (migrating, queue, store):
        # A service that says more of itself than we know: others read it whole.
        definition = {"service_name": "later", "priority": 3, "options": {"max_retries": 1, "x": 2}}
        url = cluster.urls[0] + "/services"
        async with (
            aiohttp.ClientSession(headers=cluster.headers) as http,
            http.post(url + "/register", json=definition) as registered,
            http.get(cluster.urls[1] + "/services/later") as got,
        ):
            assert registered.status == got.status == 200
            seen = await got.json()
        assert (seen["priority"], seen["options"]["max_retries"]) == (3, 1)
        # A message with fields we do not know.
        await store.create_task(
            NewTask(
                task_id="sent", session_id="by-hand", service="work", input='{"number": 5}',
                new_session=True,
            )
        )  # fmt: skip
        topic = topic_name(backend.namespace, "work")
        data = {"task_id": "sent", "session_id": "by-hand", "input": "", "input_ref": True}
        message = {"id_": "m", "action": "new_task", "type": "work", "data": data | {"hint": [1]}}
        sent = QueueMessage.model_validate({**message, "format": "9.0", "trace": {"id": "x"}})
        await queue.publish(topic, sent)
        assert await first.result("by-hand", "sent") == "done 5"
        # Actions we do not know are put aside; they are in nobody's way.
        for name in ("work", "control_plane"):
            unknown = QueueMessage.model_construct(action="pause_task", data={"task_id": "sent"})
            await queue.publish(topic_name(backend.namespace, name), unknown)
        # A record with a field we do not know, which it keeps through park, answer and result.
        session, task = await first.create(number=6, ask=True)

        async def parked() -> bool:
            return await second.state(session, task) == "waiting"

        await until(parked)
        await migrating.extend(task)
        extension = await migrating.extension(task)
        assert extension
        body = {"service_id": "work", "event_obj_str": ANSWER}
        await second.ask("POST", f"/tasks/{task}/events?session_id={session}", body)
        assert await first.result(session, task) == "heard yes"
        assert await migrating.extension(task) == extension
        # The next release has migrated the store: who runs goes on, who starts is refused.
        await migrating.migrate()
        assert await first.result(*await first.create(number=7)) == "done 7"
        restarted = cluster.control_planes[1]
        await asyncio.to_thread(restarted.kill)
        restarted.start()

        async def ended() -> bool:
            return not restarted.alive

        await until(ended)
        assert restarted.stop() == 1
        assert "schema version 99 is newer than" in restarted.tail()
        assert await first.result(*await first.create(number=8)) == "done 8"
