"""Leases, lost and cancelled attempts, outages of the store, nudges."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from workflows import Context, Workflow, step
from workflows.events import HumanResponseEvent, StartEvent, StopEvent

from llamadeploy.state_stores.records import StartRequest
from llamadeploy.types import EventDefinition, TaskState

ANSWER = (
    '{"__is_pydantic": true, "value": {"response": "42"}, '
    '"qualified_name": "workflows.events.HumanResponseEvent"}'
)


class Blocking(Workflow):
    """Blocks its event loop, as code that was not written for asyncio does."""

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        time.sleep(ev.get("seconds"))
        return StopEvent(result="woke up")


class Steered(Workflow):
    """Runs until the test (on another thread) lets it go; notes how it ended."""

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.running = 0
        self.most = 0
        self.attempts = 0
        self.cancelled = 0
        self._release: list[Callable[[], None]] = []

    def release(self) -> None:
        for release in self._release:
            release()

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        loop, gate = asyncio.get_running_loop(), asyncio.Event()
        self._release.append(lambda: loop.call_soon_threadsafe(gate.set))
        self.running += 1
        self.attempts += 1
        self.most = max(self.most, self.running)
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return StopEvent(result="released")


class Answered(Workflow):
    """One step is busy (so that the run is not idle) while the other takes the answer."""

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.busy = False
        self.answer: asyncio.Future[str]

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        self.answer = asyncio.get_running_loop().create_future()
        self.busy = True
        return StopEvent(result=await self.answer)

    @step
    async def take(self, ev: HumanResponseEvent) -> None:
        self.answer.set_result(ev.response)


@pytest.mark.rule(11)
async def test_a_step_that_blocks_longer_than_the_lease_keeps_its_task(plane):
    await plane.register()
    async with plane.worker(Blocking(), lease=0.6):
        task_id = await plane.create(seconds=2.0)
        assert (await plane.result(task_id)).result == "woke up"
        record = await plane.store.get_task(task_id)
        assert (record.attempt, record.crashes) == (1, 0)


@pytest.mark.rule(1)
async def test_an_attempt_of_another_worker_stops_the_old_one(plane, eventually):
    await plane.register()
    workflow = Steered()
    async with plane.worker(workflow, lease=0.6, worker_id="old") as old:
        task_id = await plane.create()
        await eventually(lambda: workflow.running == 1)
        # As after a network cut: the store takes the lease away, and another worker starts.
        await plane.control_plane.worker_lost("old")
        other = Steered()
        async with plane.worker(other, lease=0.6, worker_id="new"):
            await eventually(lambda: workflow.cancelled == 1)
            await eventually(lambda: other.running + workflow.running == 1)
            workflow.release()
            other.release()
            assert (await plane.result(task_id)).result == "released"
        record = await plane.store.get_task(task_id)
        assert record.attempt == 2
        assert old.counts["stopped"] == 1


async def test_an_outage_shorter_than_the_lease_costs_nothing(plane, eventually):
    await plane.register()
    workflow = Steered()
    async with plane.worker(workflow, lease=5.0):
        task_id = await plane.create()
        await eventually(lambda: workflow.running == 1)
        port = plane.http.port
        await plane.http.stop(0.0)
        workflow.release()  # the result comes while the store is away
        await eventually(lambda: workflow.running == 0)
        await plane.restart_http(port)
        assert (await plane.result(task_id)).result == "released"
        record = await plane.store.get_task(task_id)
        assert (record.attempt, workflow.cancelled) == (1, 0)


async def test_an_outage_longer_than_the_lease_cancels_the_run(plane, eventually):
    await plane.register()
    workflow = Steered()
    async with plane.worker(workflow, lease=0.6):
        task_id = await plane.create()
        await eventually(lambda: workflow.running == 1)
        port = plane.http.port
        await plane.http.stop(0.0)
        await eventually(lambda: workflow.cancelled == 1)
        await plane.restart_http(port)
        await eventually(lambda: workflow.attempts == 2)
        workflow.release()
        assert (await plane.result(task_id)).result == "released"
        assert (await plane.store.get_task(task_id)).attempt == 2


async def test_a_nudge_delivers_an_event_long_before_the_renewal(plane, eventually):
    await plane.register()
    workflow = Answered()
    async with plane.worker(workflow, lease=120.0):
        task_id = await plane.create()
        await eventually(lambda: workflow.busy)
        session = (await plane.store.get_task(task_id)).session_id
        await plane.control_plane.send_event(
            session, task_id, EventDefinition(service_id="echo", event_obj_str=ANSWER)
        )
        assert (await plane.result(task_id, 5.0)).result == "42"


@pytest.mark.rule(6)
async def test_the_renewal_finds_an_event_whose_nudge_was_lost(plane, eventually):
    await plane.register()
    workflow = Answered()
    async with plane.worker(workflow, lease=0.6):
        task_id = await plane.create()
        await eventually(lambda: workflow.busy)
        outcome = await plane.store.append_inbound(task_id, ANSWER)  # and no nudge
        assert outcome.owner is not None
        assert (await plane.result(task_id, 5.0)).result == "42"


async def test_a_cancel_reaches_the_run_by_its_nudge(plane, eventually):
    await plane.register()
    workflow = Steered()
    async with plane.worker(workflow, lease=120.0) as worker:
        task_id = await plane.create()
        await eventually(lambda: workflow.running == 1)
        session = (await plane.store.get_task(task_id)).session_id
        await plane.control_plane.cancel(session, task_id)
        await eventually(lambda: workflow.cancelled == 1, timeout=5.0)
        await eventually(lambda: worker.in_flight == 0)
        assert (await plane.store.get_task(task_id)).state is TaskState.CANCELLED


async def test_the_renewal_finds_a_cancel_whose_nudge_was_lost(plane, eventually):
    await plane.register()
    workflow = Steered()
    async with plane.worker(workflow, lease=0.6) as worker:
        task_id = await plane.create()
        await eventually(lambda: workflow.running == 1)
        await plane.store.cancel(task_id, "by the test")
        await eventually(lambda: workflow.cancelled == 1, timeout=5.0)
        await eventually(lambda: worker.in_flight == 0)
        result = await plane.result(task_id)
        assert result.data["state"] == "cancelled"


@pytest.mark.rule(5)
async def test_a_task_that_may_kill_its_worker_runs_alone(plane, eventually):
    await plane.register(max_retries=1)
    suspect = await plane.create()
    # The first start dies with its worker: what is left is the last attempt.
    await plane.store.start(
        StartRequest(task_id=suspect, execution_id="e", worker_id="dead", lease=60.0)
    )
    workflow = Steered()
    async with plane.worker(workflow, max_concurrent_tasks=8) as worker:
        others = [await plane.create() for _ in range(3)]
        await eventually(lambda: workflow.running == 3)
        await plane.control_plane.worker_lost("dead")
        await eventually(lambda: worker.in_flight == 4)
        later = await plane.create()
        assert workflow.running == 3
        workflow.release()
        await asyncio.gather(*[plane.result(task) for task in others])
        await eventually(lambda: workflow.attempts == 4 and workflow.running == 1)
        assert (await plane.store.get_task(suspect)).state is TaskState.RUNNING
        assert (await plane.store.get_task(later)).state is TaskState.QUEUED
        workflow.release()
        await plane.result(suspect)
        await eventually(lambda: workflow.attempts == 5)
        workflow.release()
        await plane.result(later)
        assert workflow.most == 3


class BlockedAtFirst(Workflow):
    """One task blocks the loop of all; the others wait for an answer."""

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.blocked = threading.Event()
        self.unblock = threading.Event()

    @step
    async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if ev.get("block"):
            self.blocked.set()
            self.unblock.wait(10)
            return StopEvent(result="unblocked")
        await ctx.store.set("event", self.blocked)  # keeps the run in memory
        answer = await ctx.wait_for_event(HumanResponseEvent)
        await ctx.store.set("event", None)
        return StopEvent(result=answer.response)


async def _held(plane, worker, eventually):
    """A task that the worker has, and its session."""
    task_id = await plane.create()
    await eventually(lambda: worker._leases.get(task_id) is not None)
    return task_id, (await plane.store.get_task(task_id)).session_id


@pytest.mark.rule(6, 11)
async def test_an_event_that_comes_while_the_loop_is_blocked_is_not_lost(plane, eventually):
    await plane.register()
    workflow = BlockedAtFirst()
    async with plane.worker(workflow, lease=0.6) as worker:
        await plane.create(block=True)
        await eventually(workflow.blocked.is_set)
        task_id, session = await _held(plane, worker, eventually)
        await plane.control_plane.send_event(
            session, task_id, EventDefinition(service_id="echo", event_obj_str=ANSWER)
        )
        await eventually(lambda: worker._leases.get(task_id).inbound_seq == 1)
        workflow.unblock.set()
        assert (await plane.result(task_id, 5.0)).result == "42"


@pytest.mark.rule(11, 13)
async def test_a_cancel_that_comes_while_the_loop_is_blocked_is_not_lost(plane, eventually):
    await plane.register()
    workflow = BlockedAtFirst()
    async with plane.worker(workflow, lease=0.6) as worker:
        blocking = await plane.create(block=True)
        await eventually(workflow.blocked.is_set)
        task_id, session = await _held(plane, worker, eventually)
        await plane.control_plane.cancel(session, task_id)
        await eventually(lambda: worker._leases.get(task_id).is_lost())
        workflow.unblock.set()
        assert (await plane.result(blocking)).result == "unblocked"
        await eventually(lambda: worker.in_flight == 0, timeout=5.0)
