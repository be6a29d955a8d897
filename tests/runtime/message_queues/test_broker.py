"""The broker's rules: time, order, memory, and a model of it for hypothesis."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamadeploy.exceptions import QueueUnavailableError
from llamadeploy.message_queues.simple.broker import Broker, Limits
from llamadeploy.message_queues.simple.topic import Lease

SILENCE = 0.1


def bodies(leases: list[Lease]) -> list[str]:
    return [lease.body.decode() for lease in leases]


def publish(broker: Broker, names: str, topic: str = "t") -> None:
    for name in names:
        broker.publish(topic, name, name.encode())


async def test_the_silent_lose_their_leases_to_the_front_and_in_order() -> None:
    broker = Broker(silence=SILENCE)
    publish(broker, "abcdef")
    await broker.lease("t", "silent", limit=3)
    waiting = asyncio.create_task(broker.lease("t", "waiting", limit=9, wait=5))
    assert bodies(await waiting) == ["d", "e", "f"]
    async with asyncio.timeout(5):
        while not (found := await broker.lease("t", "next", limit=9, wait=1)):
            pass
    assert bodies(found)[:3] == ["a", "b", "c"]


async def test_expiry_is_by_a_timer_and_prompt() -> None:
    broker = Broker(silence=SILENCE)
    publish(broker, "a")
    started = beaten = time.monotonic()
    await broker.lease("t", "silent")
    while time.monotonic() - started < SILENCE / 2:
        beaten = time.monotonic()
        assert broker.heartbeat("silent")
        await asyncio.sleep(0.01)
    broker.open_consumer("patient")
    assert bodies(await broker.lease("t", "patient", wait=None)) == ["a"]
    assert SILENCE - 0.03 < time.monotonic() - beaten < SILENCE + 0.5
    assert not broker.heartbeat("silent")


async def test_a_blocked_loop_does_not_kill_its_consumers() -> None:
    broker = Broker(silence=SILENCE)
    publish(broker, "a")
    [lease] = await broker.lease("t", "busy")
    time.sleep(SILENCE + 1.1)  # the whole process was away; the heartbeat is still in a socket
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert broker.heartbeat("busy")
    assert broker.ack("busy", [lease.tag]) == 1


async def test_a_waiting_consumer_that_is_silent_is_dead_too() -> None:
    broker = Broker(silence=SILENCE)
    assert await asyncio.wait_for(broker.lease("t", "c", wait=60), 5) == []
    publish(broker, "a")
    assert broker.depth("t") == 1 and broker.pop("t") == b"a"


async def test_messages_are_shared_evenly_among_those_who_wait() -> None:
    broker = Broker()
    waiting = [
        asyncio.create_task(broker.lease("t", name, limit=8, wait=5)) for name in ("one", "two")
    ]
    await asyncio.sleep(0)
    publish(broker, "abcd")
    assert [len(leases) for leases in await asyncio.gather(*waiting)] == [2, 2]


async def test_a_newer_request_ends_the_older_one() -> None:
    broker = Broker()
    older = asyncio.create_task(broker.lease("t", "c", wait=60))
    await asyncio.sleep(0)
    newer = asyncio.create_task(broker.lease("t", "c", wait=60))
    assert await asyncio.wait_for(older, 1) == []
    publish(broker, "a")
    assert bodies(await newer) == ["a"]


async def test_cancelling_at_the_moment_of_delivery_loses_nothing() -> None:
    broker = Broker()
    for steps in range(4):
        waiting = asyncio.create_task(broker.lease("t", "c", wait=60))
        await asyncio.sleep(0)
        publish(broker, "a")
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
        if isinstance(outcome, list):
            broker.nack("c", [lease.tag for lease in outcome])
        assert broker.pop("t") == b"a"


async def test_close_wakes_and_refuses() -> None:
    broker = Broker()
    waiting = asyncio.create_task(broker.lease("t", "c", wait=60))
    await asyncio.sleep(0)
    broker.close()
    broker.close()
    assert await waiting == []
    with pytest.raises(QueueUnavailableError, match="shutting down"):
        broker.publish("t", "a", b"a")
    with pytest.raises(QueueUnavailableError, match="shutting down"):
        await broker.lease("t", "c")


async def test_tags_of_an_earlier_life_mean_nothing() -> None:
    old, new = Broker(), Broker()
    publish(old, "a")
    publish(new, "a")
    [stale] = await old.lease("t", "c")
    [lease] = await new.lease("t", "c")
    assert new.ack("c", [stale.tag]) == 0 and new.ack("c", [lease.tag]) == 1


async def test_bytes_are_counted_until_messages_go() -> None:
    broker = Broker(limits=Limits(total_bytes=100))
    for round_ in range(3):
        broker.publish("t", "a", b"x" * 60)
        with pytest.raises(QueueUnavailableError, match="queue is full"):
            broker.publish("u", "b", b"x" * 60)
        if round_ == 0:
            [lease] = await broker.lease("t", "c")
            broker.ack("c", [lease.tag])
        elif round_ == 1:
            [lease] = await broker.lease("t", "c")
            broker.delete_topic("t")
            assert broker.ack("c", [lease.tag]) == 1  # forgotten with its topic
        else:
            broker.pop("t")
        broker.publish("u", f"b{round_}", b"x" * 90)
        broker.delete_topic("u")


async def test_a_deleted_and_remade_topic_does_not_get_old_leases_back() -> None:
    broker = Broker()
    publish(broker, "a")
    [lease] = await broker.lease("t", "c")
    broker.delete_topic("t")
    publish(broker, "ab")
    assert broker.nack("c", [lease.tag]) == 1
    assert broker.depth("t") == 2
    assert [broker.pop("t"), broker.pop("t"), broker.pop("t")] == [b"a", b"b", None]


async def test_memory_of_the_gone_is_bounded() -> None:
    broker = Broker(silence=0.01)
    for number in range(200):
        await broker.lease(f"inbox{number}", f"c{number}", ephemeral=True)
    async with asyncio.timeout(5):
        while broker.consumers or broker.topics:
            await asyncio.sleep(0.005)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 9)),
        st.tuples(st.just("lease"), st.sampled_from("xy"), st.integers(1, 4)),
        st.tuples(st.just("ack"), st.sampled_from("xy"), st.integers(0, 3)),
        st.tuples(st.just("nack"), st.sampled_from("xy"), st.integers(0, 3)),
        st.tuples(st.just("close"), st.sampled_from("xy")),
        st.tuples(st.just("pop")),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(operations)
async def test_it_behaves_like_a_sorted_list_with_holders(steps: list[tuple]) -> None:
    """The model: the accepted messages in order, each with its holder or none."""
    broker, model = Broker(), []
    held: dict[str, list[Lease]] = {"x": [], "y": []}
    for number, step in enumerate(steps):
        match step:
            case ("publish", key):
                new = broker.publish("t", str(key), b"%d" % number)
                assert new == (key not in [m["key"] for m in model])
                if new:
                    model.append({"key": key, "body": b"%d" % number, "holder": None})
            case ("lease", who, limit):
                leases = await broker.lease("t", who, limit=limit)
                free = [m for m in model if m["holder"] is None][:limit]
                assert [lease.body for lease in leases] == [m["body"] for m in free]
                for m in free:
                    m["holder"] = who
                held[who] += leases
            case ("ack" | "nack" as verb, who, index) if index < len(held[who]):
                lease = held[who][index]  # perhaps one it does not hold any more
                [m] = [m for m in model if m["body"] == lease.body] or [None]
                newest = [x for x in held[who] if x.body == lease.body][-1]
                ours = m is not None and m["holder"] == who and lease is newest
                assert getattr(broker, verb)(who, [lease.tag]) == int(ours)
                if ours and verb == "ack":
                    model.remove(m)
                elif ours:
                    m["holder"] = None
            case ("close", who):
                broker.close_consumer(who)
                for m in model:
                    m["holder"] = None if m["holder"] == who else m["holder"]
            case ("pop",):
                free = [m for m in model if m["holder"] is None][:1]
                assert broker.pop("t") == (free[0]["body"] if free else None)
                model = [m for m in model if m not in free]
        assert broker.depth("t") == len(model)
    broker.close()
