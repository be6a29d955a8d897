"""How tasks end, whatever happens on the way: processes apart on each pair of queue and store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llamadeploy.message_queues.registry import open_queue
from llamadeploy.messages import ActionTypes, QueueMessage, topic_name

SERVICES: dict[str, dict[str, Any]] = {
    "work": {},
    "caller": {},
    "fragile": {"path": "workflow:work", "max_retries": 0, "wait_timeout_seconds": 1.0},
}


@pytest.fixture
async def cluster(deploy: Any, backend: Any) -> Any:
    return await deploy(backend, control_planes=2, services=SERVICES)


@pytest.fixture
async def queue(backend: Any) -> AsyncIterator[Any]:
    opened = open_queue(backend.queue_type, backend.queue_url, backend.queue_options)
    yield opened
    await opened.aclose()


@pytest.fixture
def reaches(until: Any) -> Callable[..., Any]:
    """Waits for a task's state."""

    async def wait(api: Any, task: tuple[str, str], state: str) -> None:
        async def there() -> bool:
            return await api.state(*task) == state

        await until(there)

    return wait


async def restart(worker: Any) -> None:
    await asyncio.to_thread(worker.kill)
    worker.start()
    await worker.ready()


def runs(cluster: Any, number: int) -> list[str]:
    """The processes that began the task."""
    lines = (cluster.folder / "ledger").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[0] == str(number)]


@pytest.mark.rule(6, 7)
@pytest.mark.timeout(240)
async def test_answers_early_late_and_to_code_that_has_changed(
    cluster: Any, apis: Any, reaches: Any
) -> None:
    first, second = apis(cluster)
    (worker,) = cluster.workers["work"]
    # Before there is a worker, and so before the question.
    await asyncio.to_thread(worker.stop)
    early = await first.create(number=1, ask=True)
    await second.answer(*early)
    worker.start()
    assert await first.result(*early) == "heard yes"
    # After the worker that asked has gone.
    late = await first.create(number=2, ask=True)
    changed = await second.create(number=3, ask=True)
    for task in (late, changed):
        await reaches(first, task, "waiting")
    await restart(worker)
    await second.answer(*late)
    assert await first.result(*late) == "heard yes"
    assert len(set(runs(cluster, 2))) == 2
    # To code that has no such step any more.
    code = cluster.folder / "workflow.py"
    code.write_text(code.read_text().replace("async def work(", "async def labour("))
    await restart(worker)
    await second.answer(*changed)
    await reaches(first, changed, "failed")
    assert "work" in str(await first.result(*changed))
    assert await first.result(*await first.create(number=4)) == "done 4"


@pytest.mark.rule(5, 8, 13, 17)
@pytest.mark.timeout(240)
async def test_errors_crashes_time_outs_and_cancels_end_tasks(
    cluster: Any, apis: Any, reaches: Any, until: Any, queue: Any, backend: Any
) -> None:
    first, second = apis(cluster)
    failed = await first.create(number=1, fail=True)
    assert "as it was told" in str(await second.result(*failed))
    assert len(runs(cluster, 1)) == 1, "an exception is not tried again"
    unanswered = await first.create("fragile", number=2, ask=True)
    assert "nobody answered" in str(await second.result(*unanswered))
    # A run that ends its process, with no retry left.
    crash = await first.create("fragile", number=3, die=True)
    # Cancelling the caller cancels its call; what has ended stays as it is.
    session, caller = await first.create("caller", number=4, seconds=60)

    async def called() -> bool:
        return len(runs(cluster, 4)) == 1

    await until(called)
    path = f"/tasks/{caller}/cancel?session_id={session}"
    assert (await second.ask("POST", path))["outcome"] == "cancelled"

    async def both_cancelled() -> bool:
        found = await first.ask("GET", "/task-statuses?state=cancelled")
        return {each["service_id"] for each in found} == {"caller", "work"}

    await until(both_cancelled)
    path = f"/tasks/{failed[1]}/cancel?session_id={failed[0]}"
    assert (await second.ask("POST", path))["outcome"] != "cancelled"
    assert "as it was told" in str(await first.result(*failed))
    await reaches(first, crash, "failed")
    letters = await second.ask("GET", "/dead-letters")
    assert [each["task_id"] for each in letters] == [crash[1]]
    # A message of a task that nobody knows is acknowledged.
    topic = topic_name(backend.namespace, "work")
    unknown = {"task_id": "nobody", "session_id": "none", "input": "{}", "service_id": "work"}
    await queue.publish(topic, QueueMessage(action=ActionTypes.NEW_TASK, data=unknown))

    async def acknowledged() -> bool:
        return await queue.depth(topic) == 0

    await until(acknowledged)
    assert await first.result(*await first.create(number=5)) == "done 5"


@pytest.mark.rule(12)
@pytest.mark.timeout(240)
async def test_who_follows_is_told_of_another_attempt(cluster: Any, apis: Any, until: Any) -> None:
    first, second = apis(cluster)
    (worker,) = cluster.workers["work"]
    session, task = await first.create(number=1, ticks=5, seconds=5)
    lines: list[Any] = []

    async def follow() -> None:
        path = f"{second.url}/tasks/{task}/events?session_id={session}&format=typed"
        async with second.http.get(path) as response:
            assert response.status == 200
            async for line in response.content:
                if line.strip():
                    lines.append(json.loads(line))

    following = asyncio.create_task(follow())

    async def five() -> bool:
        return len(lines) >= 5

    await until(five)
    await restart(worker)
    assert await first.result(session, task, wait=60) == "done 1"
    await asyncio.wait_for(following, 30)
    at = [number for number, line in enumerate(lines) if "restart" in line]
    assert len(at) == 1, lines
    marker = lines[at[0]]["restart"]
    assert (marker["attempt"], marker["base_index"]) == (2, 0)
    for part in (lines[: at[0]], lines[at[0] + 1 :]):
        ticks = [line["index"] for line in part if line["type"].endswith(".Tick")]
        assert ticks == list(range(5)), lines
    # Who comes later sees the attempt that counts alone.
    events = await first.events(session, task)
    assert [event["number"] for event in events if "number" in event] == list(range(5))
