"""Broadcast: every replica runs every task, one leads."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

from llamadeploy.types import EventDefinition

ANSWER = (
    '{"__is_pydantic": true, "value": {"response": "42"}, '
    '"qualified_name": "workflows.events.HumanResponseEvent"}'
)


class Progress(Event):
    replica: int


class Counting(Workflow):
    """Counts its runs by task, and in the session's context."""

    def __init__(self, replica: int) -> None:
        super().__init__(timeout=None)
        self.replica = replica
        self.runs: dict[int, int] = {}

    @step
    async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.runs[ev.number] = self.runs.get(ev.number, 0) + 1
        count = await ctx.store.get("count", default=0) + 1
        await ctx.store.set("count", count)
        ctx.write_event_to_stream(Progress(replica=self.replica))
        return StopEvent(result=f"{self.replica}: {count}")


class Answered(Workflow):
    """Busy, so that it is not put away, until the answer is there."""

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.running = 0
        self.answers: list[str] = []
        self.cancelled = 0

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        self.running += 1
        try:
            while not self.answers:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return StopEvent(result=self.answers[0])

    @step
    async def take(self, ev: HumanResponseEvent) -> None:
        self.answers.append(ev.response)


@pytest.fixture
async def replicas(broadcasting):
    """Starts a worker of each workflow."""
    async with AsyncExitStack() as stack:
        await broadcasting.register(broadcast=True)

        async def start(*workflows):
            return [
                await stack.enter_async_context(
                    broadcasting.worker(workflow, broadcast=True, lease=1.0, worker_id=f"w{n}")
                )
                for n, workflow in enumerate(workflows)
            ]

        yield start


@pytest.mark.rule(15)
async def test_each_replica_runs_each_task_once_and_one_counts(broadcasting, replicas, eventually):
    workflows = [Counting(n) for n in range(3)]
    workers = await replicas(*workflows)
    first = await broadcasting.create(number=0)
    session = (await broadcasting.store.get_task(first)).session_id
    tasks = [first]
    tasks += [await broadcasting.create_in(session, number=n) for n in range(1, 5)]
    tasks += [await broadcasting.create(number=n) for n in range(5, 10)]
    results = [(await broadcasting.result(task)).result for task in tasks]
    each_once = dict.fromkeys(range(10), 1)
    await eventually(lambda: all(w.runs == each_once for w in workflows))
    await eventually(lambda: not any(worker.in_flight for worker in workers))
    assert [result.partition(": ")[2] for result in results] == list("1234511111")
    for task, result in zip(tasks, results, strict=True):
        events = await broadcasting.events(task)
        assert [e["replica"] for e in events if "replica" in e] == [int(result[0])]
        record = await broadcasting.store.get_task(task)
        assert (record.attempt, record.runs) == (1, 3)
    assert sum(worker.counts["followed"] for worker in workers) == 20


@pytest.mark.rule(15)
async def test_events_and_cancels_reach_every_replica(broadcasting, replicas, eventually):
    workflows = [Answered() for _ in range(3)]
    await replicas(*workflows)
    task = await broadcasting.create()
    await eventually(lambda: all(w.running == 1 for w in workflows))
    event = EventDefinition(event_obj_str=ANSWER, service_id="echo")
    session = (await broadcasting.store.get_task(task)).session_id
    await broadcasting.control_plane.send_event(session, task, event)
    assert (await broadcasting.result(task)).result == "42"
    await eventually(lambda: all(w.answers == ["42"] and not w.running for w in workflows))
    for workflow in workflows:
        workflow.answers.clear()
    task = await broadcasting.create()
    await eventually(lambda: all(w.running == 1 for w in workflows))
    session = (await broadcasting.store.get_task(task)).session_id
    await broadcasting.control_plane.cancel(session, task)
    await eventually(lambda: all(w.cancelled == 1 for w in workflows))


class Asking(Workflow):
    """Two parts, with a question between them for which it is put away."""

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.parts: list[str] = []

    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        self.parts.append("asked")
        return InputRequiredEvent(prefix="?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        self.parts.append(ev.response)
        return StopEvent(result=f"answered {ev.response}")


@pytest.mark.rule(15)
async def test_a_question_is_asked_and_answered_on_every_replica(
    broadcasting, replicas, eventually
):
    workflows = [Asking() for _ in range(3)]
    workers = await replicas(*workflows)
    task = await broadcasting.create()
    await eventually(lambda: all(w.parts == ["asked"] for w in workflows))

    async def parked() -> bool:
        record = await broadcasting.store.get_task(task)
        return record.state == "waiting" and not any(worker.in_flight for worker in workers)

    await eventually(parked)
    session = (await broadcasting.store.get_task(task)).session_id
    event = EventDefinition(event_obj_str=ANSWER, service_id="echo")
    await broadcasting.control_plane.send_event(session, task, event)
    assert (await broadcasting.result(task)).result == "answered 42"
    await eventually(lambda: not any(worker.in_flight for worker in workers))
    parts = sorted(len(workflow.parts) for workflow in workflows)
    # Who comes to the answer after the leader's end has nothing to go on from.
    assert parts[-1] == 2 and parts[0] >= 1
    assert all(workflow.parts in (["asked"], ["asked", "42"]) for workflow in workflows)


class Gated(Workflow):
    def __init__(self, open_: bool) -> None:
        super().__init__(timeout=None)
        self.open = open_
        self.ended = False

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        while not self.open:
            await asyncio.sleep(0.01)
        self.ended = True
        return StopEvent(result="ended")


@pytest.mark.rule(15)
async def test_a_follower_that_stands_by_takes_no_slot_and_drains_at_once(
    broadcasting, replicas, eventually
):
    leader, follower = Gated(False), Gated(True)
    workers = await replicas(leader)
    task = await broadcasting.create()
    await eventually(lambda: workers[0].in_flight == 1)
    async with broadcasting.worker(
        follower, broadcast=True, worker_id="late", max_concurrent_tasks=1, drain_grace=60.0
    ) as worker:
        tasks = [task] + [await broadcasting.create() for _ in range(3)]
        await eventually(lambda: worker.in_flight >= 3, 20)
        assert follower.ended
    # The end of the block drained it, which would have taken the minute of its grace.
    assert await broadcasting.control_plane.wait_result(task, 0.1) is None
    leader.open = True
    for task in tasks:
        assert (await broadcasting.result(task)).result == "ended"


HELD = """
import asyncio, os
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

class Held(Workflow):
    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        with open(f"{ev.log}.{os.getpid()}", "a") as log:
            log.write("run\\n")
        hold = f"{ev.log}.hold.{os.getpid()}"
        while not os.path.exists(ev.log + ".open") or os.path.exists(hold):
            await asyncio.sleep(0.01)
        with open(f"{ev.log}.ended.{os.getpid()}", "a") as log:
            log.write("end\\n")
        return StopEvent(result=os.getpid())

workflow = Held(timeout=None)
"""


@pytest.mark.rule(15)
@pytest.mark.parametrize("finished", [False, True], ids=["running", "finished"])
async def test_a_follower_takes_over_from_a_killed_leader(
    broadcasting, worker_process, eventually, tmp_path, finished
):
    await broadcasting.register(broadcast=True)
    log = tmp_path / "log"
    async with AsyncExitStack() as stack:
        processes = {}
        for number in range(3):
            worker = worker_process(
                broadcasting, HELD, service="echo", worker_id=f"w{number}", broadcast=True
            )
            processes[f"w{number}"] = await stack.enter_async_context(worker)
        topic = f"{broadcasting.namespace}.echo"
        pids = [process.pid for process in processes.values()]
        # A broadcast reaches those that are there.
        await eventually(lambda: subscribed(broadcasting, topic, 3), 60)
        task = await broadcasting.create(log=str(log))

        def files(name: str, among: list[int]) -> list[str]:
            found = [Path(f"{log}{name}.{pid}") for pid in among]
            return [file.read_text() for file in found if file.exists()]

        await eventually(lambda: files("", pids) == ["run\n"] * 3, 30)
        leader = processes[(await broadcasting.store.get_task(task)).owner]
        others = [pid for pid in pids if pid != leader.pid]
        if finished:
            Path(f"{log}.hold.{leader.pid}").touch()
            Path(f"{log}.open").touch()
            await eventually(lambda: files(".ended", others) == ["end\n"] * 2)
            assert await broadcasting.control_plane.wait_result(task, 0.1) is None
        leader.send_signal(signal.SIGKILL)
        await leader.wait()
        if not finished:
            await eventually(lambda: attempt_of(broadcasting, task, 2), 30)
            Path(f"{log}.open").touch()
        assert int((await broadcasting.result(task, 30)).result) in others
        await eventually(lambda: files(".ended", others) == ["end\n"] * 2)
        assert files("", pids) == ["run\n"] * 3, "nobody began again"


async def subscribed(site, topic, number):
    from redis.asyncio import Redis
    from redis.exceptions import ResponseError

    from llamadeploy.message_queues.redis.topic import topic_prefix

    async with Redis.from_url(site.queue_uri) as redis:
        try:
            groups = await redis.xinfo_groups(topic_prefix(topic) + "s")
        except ResponseError:  # no such key yet
            return False
        return len(groups) == number


async def attempt_of(site, task, number):
    return (await site.store.get_task(task)).attempt == number
