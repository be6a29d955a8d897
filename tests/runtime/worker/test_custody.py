"""Runs that call, or take long: their delivery is acknowledged early."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

from llamadeploy.state_stores.records import StartRequest
from llamadeploy.worker.calls import call_service
from llamadeploy.worker.slots import Seat, Slots


class Nested(Workflow):
    """Calls its own service until ``depth`` is 0; notes how many run at once."""

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.running = 0
        self.most = 0

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        await self._work()
        if ev.depth == 0:
            return StopEvent(result="0")
        below = await call_service(ev.get("callee", "echo"), depth=ev.depth - 1, tag=ev.tag)
        await self._work()
        return StopEvent(result=f"{ev.depth} {below}")

    async def _work(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1


class Gated(Workflow):
    """Runs until the test lets it go."""

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.running = self.runs = 0
        self.open = False

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        self.running += 1
        self.runs += 1
        try:
            while not self.open:
                await asyncio.sleep(0.01)
        finally:
            self.running -= 1
        return StopEvent(result="opened")


class Relay(Workflow):
    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"then {await call_service('gate')}")


RELAY = """
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent
from llamadeploy.worker.calls import call_service

class Relay(Workflow):
    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        with open(ev.log, "a") as log:
            log.write("run\\n")
        return StopEvent(result=f"then {await call_service('gate')}")

workflow = Relay(timeout=None)
"""


async def scaling(plane, service):
    found = await plane.control_plane.operations.scaling(service)
    return {"ready": found.ready, "unacked": found.unacked, "custody": found.custody}


@pytest.mark.rule(14)
async def test_a_service_calls_itself_in_all_of_its_slots(site, eventually):
    await site.register()
    workflow = Nested()
    async with site.worker(workflow, max_concurrent_tasks=4) as worker:
        tasks = [await site.create(depth=3, tag=str(n)) for n in range(8)]
        for task in tasks:
            assert (await site.result(task, 60)).result == "3 2 1 0"
        assert workflow.most <= 4, "a run that comes back from a call takes a slot again"
        await eventually(lambda: worker.in_flight == worker.in_custody == 0)


@pytest.mark.rule(10, 14)
async def test_a_caller_is_acknowledged_counted_and_frees_its_slot(site, eventually):
    await site.register("relay")
    await site.register("gate")
    gate = Gated()
    topic = f"{site.namespace}.relay"
    async with (
        site.worker(Relay(), service="relay", max_concurrent_tasks=1) as relay,
        site.worker(gate, service="gate", max_concurrent_tasks=8),
    ):
        tasks = [await site.create("relay") for _ in range(4)]
        await eventually(lambda: gate.running == 4, 30)
        await eventually(lambda: relay.in_custody == 4)

        async def acknowledged() -> bool:
            return await site.queue.depth(topic) == 0

        await eventually(acknowledged)
        assert await scaling(site, "relay") == {"ready": 0, "unacked": 0, "custody": 4}
        assert (await scaling(site, "gate"))["unacked"] == 4
        gate.open = True
        for task in tasks:
            assert (await site.result(task, 30)).result == "then opened"
        assert await scaling(site, "relay") == {"ready": 0, "unacked": 0, "custody": 0}
    for task in tasks:
        record = await site.store.get_task(task)
        assert (record.attempt, record.crashes) == (1, 0)


@pytest.mark.rule(10, 14)
@pytest.mark.defect(8)
async def test_a_task_in_custody_survives_its_worker(site, worker_process, eventually, tmp_path):
    """The queue has nothing of it any more: the lease alone brings it to another worker."""
    await site.register("relay")
    await site.register("gate")
    gate = Gated()
    log = tmp_path / "log"
    async with site.worker(gate, service="gate"):
        async with worker_process(site, RELAY, service="relay") as first:
            task = await site.create("relay", log=str(log))

            async def in_custody() -> bool:
                return (await scaling(site, "relay"))["custody"] == 1

            await eventually(in_custody, 60)

            async def acknowledged() -> bool:
                return await site.queue.depth(f"{site.namespace}.relay") == 0

            await eventually(acknowledged)
            first.send_signal(signal.SIGKILL)
            await first.wait()
        async with worker_process(site, RELAY, service="relay"):
            await eventually(lambda: log.read_text() == "run\n" * 2, 60)
            gate.open = True
            assert (await site.result(task, 30)).result == "then opened"
    record = await site.store.get_task(task)
    assert (record.attempt, record.crashes) == (2, 1)
    assert gate.runs == 1, "the second attempt found the first one's call"


@pytest.mark.rule(10)
async def test_a_long_run_is_acknowledged_and_keeps_its_slot(site, eventually):
    await site.register()
    gate = Gated()
    topic = f"{site.namespace}.echo"
    async with site.worker(gate, max_concurrent_tasks=2, custody_after=0.4, lease=2.0) as worker:
        tasks = [await site.create() for _ in range(5)]
        await eventually(lambda: worker.in_custody == 2, 30)
        assert await scaling(site, "echo") == {"ready": 3, "unacked": 0, "custody": 2}

        async def handed_back() -> bool:
            # What it cannot run is free for others: the queue counts it, and nobody holds it.
            return await site.queue.ready(topic) == await site.queue.depth(topic) == 3

        await eventually(handed_back)
        assert gate.running == 2
        gate.open = True
        for task in tasks:
            assert (await site.result(task, 30)).result == "opened"
        await eventually(lambda: worker.in_flight == 0)
    for task in tasks:
        record = await site.store.get_task(task)
        assert (record.attempt, record.crashes) == (1, 0)


@pytest.mark.rule(10)
async def test_no_acknowledgement_is_late(strict_rabbitmq_site, eventually):
    """The server closes a channel that owes an acknowledgement for two seconds: everything that
    the worker holds would come again."""
    site = strict_rabbitmq_site
    await site.register()
    gate = Gated()
    async with site.worker(gate, max_concurrent_tasks=4, custody_after=0.5) as worker:
        tasks = [await site.create() for _ in range(6)]
        await eventually(lambda: worker.in_custody == 4, 30)
        begun = time.monotonic()
        await eventually(lambda: time.monotonic() - begun > 5.0)  # two of its looks
        gate.open = True
        for task in tasks:
            assert (await site.result(task, 30)).result == "opened"
        await eventually(lambda: worker.in_flight == 0)

        async def acknowledged() -> bool:
            return await site.queue.depth(f"{site.namespace}.echo") == 0

        await eventually(acknowledged, 30)
        assert gate.runs == 6
        again = {name for name in worker.counts if name.startswith("dropped")}
        assert not again, "a message of a running task came again"


@pytest.mark.rule(14)
async def test_a_call_into_an_ancestors_session_goes_on_while_both_are_in_custody(site):
    """A calls B, which calls A in A's own session; each has a single slot."""
    await site.register("a")
    await site.register("b")
    workflow = Nested()

    class Second(Nested):
        @step
        async def run_it(self, ev: StartEvent) -> StopEvent:
            below = await call_service("a", depth=0, tag=ev.tag)
            return StopEvent(result=f"{ev.depth} {below}")

    shared = site.control_plane._calls.call

    async def in_the_callers_session(*arguments, **options):
        return await shared(*arguments, **{**options, "share_session": True})

    site.control_plane._calls.call = in_the_callers_session
    async with (
        site.worker(workflow, service="a", max_concurrent_tasks=1),
        site.worker(Second(), service="b", max_concurrent_tasks=1),
    ):
        task = await site.create("a", depth=2, tag="x", callee="b")
        assert (await site.result(task, 30)).result == "2 1 0"


@pytest.mark.rule(5, 14)
async def test_a_suspect_that_calls_its_own_service_lets_its_callee_in(plane):
    """On its last attempt it runs alone; while it waits for a call it does not run."""
    await plane.register(max_retries=1)
    tasks = [await plane.create(depth=2, tag=str(n)) for n in range(3)]
    for task in tasks:
        dead = StartRequest(task_id=task, execution_id=task, worker_id="dead", lease=0.0)
        execution = await plane.store.start(dead)
        assert not execution.alone
    workflow = Nested()
    async with plane.worker(workflow, max_concurrent_tasks=2) as worker:
        for task in tasks:
            assert (await plane.result(task, 30)).result == "2 1 0"
            assert (await plane.store.get_task(task)).attempt == 2
        assert not worker.counts["failed"]


async def test_what_is_short_costs_no_custody(plane, eventually):
    await plane.register()
    custody: list[bool] = []
    renew = plane.store.renew

    async def counted(*arguments, **options):
        custody.append(options.get("custody", False))
        return await renew(*arguments, **options)

    plane.store.renew = counted
    async with plane.worker(Nested(), lease=0.3, max_concurrent_tasks=1) as worker:
        for task in [await plane.create(depth=0) for _ in range(40)]:
            assert (await plane.result(task)).result == "0"
        await eventually(lambda: worker.counts["succeeded"] == 40)
        assert worker.in_custody == 0
        assert not any(custody)


async def test_slots_go_to_those_that_come_back_first():
    slots = Slots(1)
    seats = [Seat(None) for _ in range(4)]
    order: list[int] = []

    async def new(number: int) -> None:
        assert await slots.take(seats[number], None)
        order.append(number)

    async def back(number: int) -> None:
        await slots.take_back(seats[number])
        order.append(number)

    assert await slots.take(seats[0], None)
    assert not await slots.take(seats[1], 0.01), "no slot became free"
    waiting = [asyncio.create_task(each) for each in (new(1), back(2), new(3))]
    await asyncio.sleep(0)
    gone = asyncio.create_task(slots.take_back(seats[0]))
    await asyncio.sleep(0)
    gone.cancel()
    for number in (0, 2, 1, 3):
        while seats[number].since is None:
            await asyncio.sleep(0)
        slots.give(seats[number])
        slots.give(seats[number])
    await asyncio.gather(*waiting)
    assert order == [2, 1, 3]
    assert await slots.take(seats[0], 0.0), "none was lost"
