"""Cancelling, and the threads that a run leaves behind."""

from __future__ import annotations

import asyncio
import threading

import pytest
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from llamadeploy.worker.contract import Failed, Stopped, Succeeded


class Began(Event):
    pass


class Sleeps(Workflow):
    @step
    async def sleep(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Began())
        await asyncio.sleep(60)
        return StopEvent(result="never")


class Blocks(Workflow):
    """A synchronous step, which the library runs in a thread."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.began = threading.Event()
        self.release = threading.Event()

    @step
    def block(self, ev: StartEvent) -> StopEvent:
        self.began.set()
        self.release.wait(10)
        return StopEvent(result="ended")


async def test_cancel_stops_a_step_and_writes_nothing(kit) -> None:
    run, sink = kit.start(kit.runner(Sleeps()))
    await sink.until(lambda sink: sink.events)
    run.cancel()
    assert await run.outcome() == Stopped()
    run.cancel()
    assert sink.types() == ["Began"]


async def test_events_after_a_cancel_are_ignored(kit) -> None:
    run, sink = kit.start(kit.runner(Sleeps()))
    await sink.until(lambda sink: sink.events)
    run.cancel()
    run.deliver([kit.event(1, response="late")])
    assert await run.outcome() == Stopped()
    run.deliver([kit.event(2, response="later")])


async def test_cancelling_one_run_leaves_the_others(kit) -> None:
    runner = kit.runner(Sleeps())
    runs = [kit.start(runner, task_id=str(n)) for n in range(3)]
    for _, sink in runs:
        await sink.until(lambda sink: sink.events)
    runs[1][0].cancel()
    assert await runs[1][0].outcome() == Stopped()
    assert not any(run._task.done() for run, _ in (runs[0], runs[2]))
    for run, _ in runs:
        run.cancel()
        await run.outcome()


async def test_synchronous_steps_run_beside_each_other(kit) -> None:
    class Meets(Workflow):
        meeting = threading.Barrier(12)

        @step
        def meet(self, ev: StartEvent) -> StopEvent:
            self.meeting.wait(10)
            return StopEvent(result="met")

    runner = kit.runner(Meets())
    outcomes = await asyncio.gather(*(kit.run(runner, task_id=str(n)) for n in range(12)))
    assert {outcome.result for outcome, _ in outcomes} == {"met"}


@pytest.mark.parametrize("end", ["cancel", "time-out"])
@pytest.mark.rule(11)
async def test_the_slot_stays_taken_until_the_thread_ends(kit, end) -> None:
    workflow = Blocks(timeout=None if end == "cancel" else 0.1)
    run, _ = kit.start(kit.runner(workflow))
    assert await asyncio.to_thread(workflow.began.wait, 5)
    if end == "cancel":
        run.cancel()
    known = await run.ended()
    assert isinstance(known, Stopped if end == "cancel" else Failed)
    outcome = asyncio.create_task(run.outcome())
    done, _ = await asyncio.wait([outcome], timeout=0.1)
    assert not done
    workflow.release.set()
    assert await asyncio.wait_for(outcome, 5) == known


async def test_threads_that_an_asynchronous_step_starts_count_too(kit) -> None:
    release = threading.Event()

    class Starts(Workflow):
        @step
        async def start(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Began())
            await asyncio.to_thread(release.wait, 10)
            return StopEvent()

    run, sink = kit.start(kit.runner(Starts()))
    await sink.until(lambda sink: sink.events)
    run.cancel()
    assert await run.ended() == Stopped()
    assert len(run._threads) == 1
    release.set()
    assert await asyncio.wait_for(run.outcome(), 5) == Stopped()
    assert not len(run._threads)


async def test_a_step_that_swallows_its_cancellation_keeps_the_slot(kit) -> None:
    release = asyncio.Event()

    class Stubborn(Workflow):
        @step
        async def stay(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Began())
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    ctx.write_event_to_stream(Began())
            return StopEvent()

    run, sink = kit.start(kit.runner(Stubborn()))
    await sink.until(lambda sink: sink.events)
    run.cancel()
    assert await asyncio.wait_for(run.ended(), 5) == Stopped()
    outcome = asyncio.create_task(run.outcome())
    done, _ = await asyncio.wait([outcome], timeout=0.05)
    assert not done
    release.set()
    assert await asyncio.wait_for(outcome, 5) == Stopped()
    assert len(sink.events) == 1


async def test_the_result_is_known_while_another_branch_is_being_cleaned_up(kit) -> None:
    class Go(Event):
        pass

    class Branches(Workflow):
        def __init__(self) -> None:
            super().__init__()
            self.release = threading.Event()

        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Go | None:
            ctx.send_event(Go(slow=True))
            ctx.send_event(Go(slow=False))
            return None

        @step
        def branch(self, ev: Go) -> StopEvent:
            if ev.slow:
                self.release.wait(10)
            return StopEvent(result="slow" if ev.slow else "quick")

    workflow = Branches()
    run, _ = kit.start(kit.runner(workflow))
    known = await asyncio.wait_for(run.ended(), 5)
    assert isinstance(known, Succeeded)
    assert known.result == "quick"
    workflow.release.set()
    assert await asyncio.wait_for(run.outcome(), 5) == known


async def test_a_caller_that_gives_up_waiting_does_not_stop_the_run(kit) -> None:
    run, sink = kit.start(kit.runner(Sleeps()))
    await sink.until(lambda sink: sink.events)
    waiter = asyncio.create_task(run.outcome())
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait([waiter])
    assert not run._task.done()
    run.cancel()
    assert await run.outcome() == Stopped()


async def test_a_run_cancelled_in_its_first_step_leaves_no_step_running(kit) -> None:
    seen: list[str] = []

    class Watched(Workflow):
        @step
        async def sleep(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Began())
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
            return StopEvent()

    run, sink = kit.start(kit.runner(Watched()))
    await sink.until(lambda sink: sink.events)
    run.cancel()
    await run.outcome()
    assert seen == ["cancelled"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
