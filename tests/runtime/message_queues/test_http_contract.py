"""The simple queue's HTTP API: the rows of LlamaDeploy 0.8.1, leases, tokens, malformed input."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from llamadeploy.message_queues.config import SimpleMessageQueueConfig
from llamadeploy.message_queues.simple import server as server_module
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer

GOOD = {
    "id_": "1",
    "publisher_id": "p",
    "data": {"x": 1},
    "action": "new_task",
    "stats": {"publish_time": None, "process_start_time": None, "process_end_time": None},
    "type": "echo",
}


class Http:
    """A plain client of the API, as another language would be one."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.session.request(method, path, json=body) as reply:
            return reply.status, await reply.json()


@pytest.fixture
async def http(server: SimpleMessageQueueServer) -> AsyncIterator[Http]:
    async with aiohttp.ClientSession(server.url) as session:
        yield Http(session)


async def test_the_routes_of_0_8_1(http: Http) -> None:
    status, home = await http("GET", "/")
    assert status == 200 and home["service_name"] == "message_queue"
    missing = (404, {"detail": "topic t not found"})
    assert await http("POST", "/messages/t", GOOD) == missing
    assert await http("GET", "/messages/t") == missing
    for _ in range(2):
        assert await http("POST", "/topics/t") == (200, None)
    assert await http("GET", "/messages/t") == (200, None)
    assert await http("POST", "/messages/t", GOOD) == (200, None)
    assert await http("GET", "/messages/t") == (200, GOOD)
    assert await http("GET", "/messages/t") == (200, None)


async def test_a_message_without_id_gets_one_and_keeps_unknown_fields(http: Http) -> None:
    await http("POST", "/topics/t")
    assert (await http("POST", "/messages/t", {"later": [1]}))[0] == 200
    _, message = await http("GET", "/messages/t")
    assert len(message["id_"]) == 36 and message["later"] == [1] and message["type"] == "default"


async def test_documentation_is_served(http: Http) -> None:
    assert (await http("GET", "/openapi.json"))[0] == 200
    async with http.session.get("/docs") as reply:
        assert reply.status == 200


async def test_lease_ack_and_nack(http: Http) -> None:
    for number in "123":
        await http("POST", "/messages", [{"topic": "t", "message": {**GOOD, "id_": number}}])
    lease = {"consumer": "c", "max": 2}
    status, reply = await http("POST", "/messages/t/lease", lease)
    first, second = reply["deliveries"]
    assert status == 200 and first["message"] == GOOD and second["message"]["id_"] == "2"
    assert await http("GET", "/messages/t/depth") == (200, {"depth": 3, "ready": 1})
    tags = {"consumer": "c", "tags": [first["tag"]]}
    assert await http("POST", "/messages/t/ack", {**tags, "consumer": "thief"}) == (
        200,
        {"settled": 0},
    )
    assert await http("POST", "/messages/t/nack", tags) == (200, {"settled": 1})
    assert await http("POST", "/messages/t/ack", tags) == (200, {"settled": 0})
    _, reply = await http("POST", "/messages/t/lease", lease)
    assert [d["message"]["id_"] for d in reply["deliveries"]] == ["1", "3"]
    assert await http("DELETE", "/consumers/c") == (200, None)
    _, reply = await http("POST", "/messages/t/lease", {"consumer": "d", "max": 9})
    assert [d["message"]["id_"] for d in reply["deliveries"]] == ["1", "2", "3"]
    tags = {"consumer": "d", "tags": [d["tag"] for d in reply["deliveries"]]}
    assert await http("POST", "/messages/t/ack", tags) == (200, {"settled": 3})
    assert await http("POST", "/heartbeat", {"consumers": ["c", "d"]}) == (200, {"lost": ["c"]})
    assert await http("DELETE", "/topics/t") == (200, None)
    assert (await http("GET", "/messages/t"))[0] == 404


async def test_an_answer_that_got_lost_is_given_again(http: Http) -> None:
    await http("POST", "/messages", [{"topic": "t", "message": {**GOOD, "id_": n}} for n in "abc"])
    lease = {"consumer": "c", "max": 1}
    _, reply = await http("POST", "/messages/t/lease", lease)
    [seen] = reply["deliveries"]
    await http("POST", "/messages/t/lease", lease)  # this answer never arrives
    _, reply = await http("POST", "/messages/t/lease", {**lease, "max": 2, "received": seen["tag"]})
    assert [d["message"]["id_"] for d in reply["deliveries"]] == ["b", "c"]


POISON: list[Any] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"17",
    b"\xff\xfe",
    b'{"id_": 7}',
    b'{"data": []}',
    b'{"data": {"x": NaN}',
    b'{"action": "no_such_action"}',
    b'{"stats": 3}',
    b'{"type": null}',
    b'{"id_": "\\ud800"}',
    b'{"data": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    b"[" * 100_000,
]


async def test_a_hundred_malformed_bodies_change_nothing_and_a_good_one_works(http: Http) -> None:
    await http("POST", "/topics/t")
    paths = ["/messages/t", "/messages", "/messages/t/lease", "/messages/t/ack", "/heartbeat",
             "/messages/t/nack"]  # fmt: skip
    for number in range(100):
        body, path = POISON[number % len(POISON)], paths[number % len(paths)]
        harmless = path == "/messages" and body == b"[]"
        async with http.session.post(path, data=body) as reply:
            assert reply.status == (200 if harmless else 422), (path, body[:50])
            assert harmless or "body" in (await reply.json())["detail"] or path == "/messages/t"
    for body in POISON:
        async with http.session.post("/messages/t", data=body) as reply:
            assert reply.status == 422 and "not a queue message" in (await reply.json())["detail"]
    assert await http("GET", "/messages/t/depth") == (200, {"depth": 0, "ready": 0})
    assert (await http("POST", "/messages/t", GOOD))[0] == 200
    assert await http("GET", "/messages/t") == (200, GOOD)


async def test_poison_in_a_batch_does_not_stop_its_neighbours(http: Http) -> None:
    batch = [
        {"topic": "t", "message": GOOD},
        {"topic": "t", "message": {"id_": []}},
        {"topic": "u", "message": {**GOOD, "id_": "2"}},
    ]
    status, outcomes = await http("POST", "/messages", batch)
    assert status == 200 and [o and o["status"] for o in outcomes] == [None, 422, None]
    assert "id_" in outcomes[1]["detail"]
    assert await http("GET", "/messages/u/depth") == (200, {"depth": 1, "ready": 1})


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "consumer"),
        ({"consumer": ""}, "consumer"),
        ({"consumer": "c", "max": 0}, "max"),
        ({"consumer": "c", "max": 1e9}, "max"),
        ({"consumer": "c", "wait": -1}, "wait"),
        ({"consumer": "c", "wait": 1e9}, "wait"),
    ],
)
async def test_errors_name_the_field(http: Http, body: dict[str, Any], named: str) -> None:
    status, reply = await http("POST", "/messages/t/lease", body)
    assert status == 422 and named in reply["detail"]


async def test_a_body_that_is_too_large_is_refused(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_BODY_BYTES", 1000)
    await http("POST", "/topics/t")
    status, reply = await http("POST", "/messages/t", {**GOOD, "data": {"x": "y" * 1000}})
    assert status == 413 and "1000 bytes" in reply["detail"]
    assert (await http("POST", "/messages/t", GOOD))[0] == 200


async def test_a_full_queue_is_503_with_retry_after(http: Http) -> None:
    await http("POST", "/topics/t")
    large = {**GOOD, "data": {"x": "y" * 2**20}}
    async with http.session.post("/messages/t", json=large) as reply:
        assert reply.status == 503 and reply.headers["Retry-After"] == "1"
        assert "the queue is full" in (await reply.json())["detail"]
    for number in range(49):
        assert (await http("POST", f"/topics/more{number}"))[0] == 200
    status, reply = await http("POST", "/topics/one-more")
    assert status == 503 and "50 topics" in reply["detail"]


async def test_a_client_that_goes_while_it_waits_gets_no_message(
    server: SimpleMessageQueueServer, http: Http, until: Any
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = b'{"consumer":"gone","wait":30}'
    writer.write(
        b"POST /messages/t/lease HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )
    await writer.drain()

    async def waits() -> bool:
        return server.broker.waiting("t") == 1

    async def left() -> bool:
        return server.broker.waiting("t") == 0

    await until(waits)
    writer.close()
    await until(left)
    await http("POST", "/messages/t", GOOD)
    assert await http("GET", "/messages/t") == (200, GOOD)


async def test_waiting_consumers_do_not_hold_up_a_stop() -> None:
    server = SimpleMessageQueueServer(SimpleMessageQueueConfig(port=0))
    await server.start()
    async with aiohttp.ClientSession(server.url) as session:
        waiting = asyncio.create_task(
            session.post("/messages/t/lease", json={"consumer": "c", "wait": 60})
        )
        while not server.broker.waiting("t"):
            await asyncio.sleep(0.005)
        await asyncio.wait_for(server.stop(grace=30), 5)
        reply = await waiting
        assert reply.status == 200 and await reply.json() == {"deliveries": []}


async def test_a_token_is_asked_for_where_there_is_one() -> None:
    server = SimpleMessageQueueServer(SimpleMessageQueueConfig(port=0), token="hunter2")
    await server.start()
    basic = base64.b64encode(b"anybody:hunter2").decode()
    wrong = base64.b64encode(b"hunter2:wrong").decode()
    cases = [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer ", 401),
        ("hunter2", 401),
        ("Basic ???", 401),
        (f"Basic {wrong}", 401),
        ("Bearer hunter2", 200),
        (f"basic {basic}", 200),
    ]
    async with aiohttp.ClientSession(server.url) as session:
        for header, status in cases:
            headers = {} if header is None else {"Authorization": header}
            for path in ("/", "/docs"):
                async with session.get(path, headers=headers) as reply:
                    assert reply.status == status, header
                    assert "hunter2" not in await reply.text()
    await server.stop()
