"""Operations that share a transaction, and some of them a statement, do what each does alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import pytest

from llamadeploy.exceptions import LlamaDeployError
from llamadeploy.state_stores.records import (
    Completion,
    ExecutionKey,
    NewEvent,
    NewTask,
    StartRequest,
)
from llamadeploy.types import SessionPolicy, TaskState

ALONE = "alone"
TOGETHER = "together"


def tasks() -> list[NewTask]:
    """Of each kind some: alone in its session, behind others, beside others, refused."""
    made = [
        NewTask(task_id=f"t{n}", session_id=f"t{n}", service="echo", input=f'{{"n": {n}}}',
                new_session=True, body_hash="h", ancestors=("a",) * (n % 2),
                queue_timeout=60.0 if n % 3 else None, retry_on_error=n % 4 == 0)
        for n in range(12)
    ]  # fmt: skip
    first = made[0]
    made += [
        msgspec.structs.replace(first, task_id="repeat-1", session_id="r1"),
        msgspec.structs.replace(first, task_id="forgotten", session_id="f"),
        msgspec.structs.replace(first, task_id="parallel", session_id="p",
                                policy=SessionPolicy.PARALLEL),
        msgspec.structs.replace(first, task_id="large", session_id="l", input="x" * 200_000),
        msgspec.structs.replace(first, task_id="routed", session_id="o", orchestrated=True),
    ]  # fmt: skip
    shared = msgspec.structs.replace(first, session_id="shared", new_session=False)
    made += [msgspec.structs.replace(shared, task_id=f"s{n}") for n in range(3)]
    made.append(msgspec.structs.replace(shared, task_id="s-parallel",
                                        policy=SessionPolicy.PARALLEL))  # fmt: skip
    made.append(msgspec.structs.replace(shared, task_id="nowhere", session_id="nowhere"))
    made.append(msgspec.structs.replace(first, task_id="exists", session_id="shared"))
    return made


async def outcomes(way: str, calls: Iterable[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """What each call returned, or its error; all at once or one after the other."""
    if way == TOGETHER:
        found = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
    else:
        found = []
        for call in calls:
            found += await asyncio.gather(call(), return_exceptions=True)
    for each in found:
        assert not isinstance(each, BaseException) or isinstance(each, LlamaDeployError), each
    return [(type(each), str(each)) if isinstance(each, BaseException) else each for each in found]


async def course(store: Any, way: str, failing: bool) -> list[Any]:
    """Everything that the operations of all tasks answered, numbers of rows left out."""
    await store.create_session("shared")
    await store.create_task(msgspec.structs.replace(tasks()[0], task_id="repeat-1",
                                                    session_id="r1"))  # fmt: skip
    await store.create_task(msgspec.structs.replace(tasks()[0], task_id="forgotten",
                                                    session_id="g"))  # fmt: skip
    await store.delete_session("g")
    refused = {"forgotten", "nowhere", "exists"}
    new = [task for task in tasks() if failing or task.task_id not in refused]
    seen: list[Any] = []
    created = await outcomes(way, [lambda task=task: store.create_task(task) for task in new])
    seen += created
    wanted = [task.task_id for task in new]
    runs = await outcomes(way, [
        lambda name=name: store.start(
            StartRequest(task_id=name, execution_id=f"x-{name}", worker_id="w", lease=60.0)
        )
        for name in wanted
    ])  # fmt: skip
    seen += runs
    seen += await outcomes(way, [
        lambda n=n, name=name: store.finish(
            Completion(
                key=ExecutionKey(name, 2 if n == 5 else 1),
                state=TaskState.FAILED if n in (4, 6) else TaskState.SUCCEEDED,
                result=f"r{n}", data={"n": n} if n % 2 else {}, context=f"c{n}",
                events=tuple(NewEvent(i, "E", "{}") for i in range(n % 3)),
            )
        )
        for n, name in enumerate(wanted)
    ])  # fmt: skip
    for name in wanted:
        seen.append(await store.get_task(name))
        if seen[-1] is not None:
            seen.append(await store.read_log(name, 0, 100))
    return [_timeless(each) for each in seen]


def _timeless(each: Any) -> Any:
    """Without what differs from run to run: times, numbers of rows."""
    if not isinstance(each, msgspec.Struct):
        return each
    plain = msgspec.to_builtins(each)
    for key in ("created_at", "started_at", "finished_at"):
        plain.pop(key, None)
    for row in plain.get("publish", ()):
        row.pop("row_id")
    return plain


@pytest.mark.parametrize("failing", [False, True])
async def test_together_is_as_one_by_one(
    postgresql_server: Any, open_store: Any, failing: bool
) -> None:
    """With one that fails, which undoes the transaction, and without."""
    seen = {}
    for way in (ALONE, TOGETHER):
        # A schema each, so that they may have the same namespace.
        uri = f"{postgresql_server.uri}?schema=groups_{way}_{failing}&pool_size=1"
        store = await open_store(uri)
        seen[way] = await course(store, way, failing)
        await store.aclose()
    for alone, together in zip(seen[ALONE], seen[TOGETHER], strict=True):
        assert together == alone


async def test_the_same_task_twice_at_once_is_there_once(
    postgresql_server: Any, open_store: Any
) -> None:
    store = await open_store(f"{postgresql_server.uri}?pool_size=1")
    new = NewTask(task_id="t", session_id="a", service="echo", input="{}", new_session=True)
    other = msgspec.structs.replace(new, session_id="b")
    created = await asyncio.gather(*(store.create_task(task) for task in (new, other)))
    assert sorted(each.existed for each in created) == [False, True]
    assert {each.session_id for each in created} == {created[0].session_id}
    assert len(await store.list_sessions()) == 1
    request = StartRequest(task_id="t", execution_id="x", worker_id="w", lease=60.0)
    starts = await asyncio.gather(*(
        store.start(msgspec.structs.replace(request, execution_id=name)) for name in "xy"
    ))  # fmt: skip
    runs = [each for each in starts if not hasattr(each, "reason")]
    assert len(runs) == 1
    done = Completion(key=runs[0].key, state=TaskState.SUCCEEDED, result="r",
                      events=(NewEvent(0, "E", "{}"),))  # fmt: skip
    ends = await asyncio.gather(store.finish(done), store.finish(done))
    assert [end.accepted for end in ends] == [True, True]
    assert (await store.get_task("t")).event_count == 1
