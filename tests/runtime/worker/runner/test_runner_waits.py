"""Human in the loop: early, live and replayed events; parking and resuming; waiters' time-outs."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workflows import Context, Workflow, step
from workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)

from llamadeploy.state_stores.records import InboundEvent
from llamadeploy.worker.contract import Failed, Succeeded, Waiting

LEGACY = "llama_index.core.workflow.events.HumanResponseEvent"


class Asks(Workflow):
    """The style with ``wait_for_event``."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(
            HumanResponseEvent,
            waiter_event=InputRequiredEvent(prefix="name?"),
            timeout=ev.get("timeout"),
        )
        return StopEvent(result=f"hello {answer.response}")


class Hands(Workflow):
    """The style with a step that takes the answer."""

    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="name?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=f"hello {ev.response}")


class Chat(Workflow):
    """Asks ``questions`` times, and answers with all it was told, in order."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        told = []
        for number in range(ev.questions):
            reply = await ctx.wait_for_event(HumanResponseEvent, waiter_id=f"question {number}")
            told.append(reply.n)
        return StopEvent(result=told)


both_styles = pytest.mark.parametrize("workflow", [Asks, Hands])


@both_styles
async def test_a_run_that_waits_is_parked_and_goes_on_with_the_answer(kit, workflow) -> None:
    runner = kit.runner(workflow())
    parked, sink = await kit.run(runner)
    assert isinstance(parked, Waiting)
    assert sink.types() == ["InputRequiredEvent"]
    assert (parked.consumed_seq, parked.next_index) == (0, 1)
    assert parked.deadline is None
    resumed, sink = await kit.resume(runner, parked, kit.event(1, response="Ada"))
    assert resumed.result == "hello Ada"
    assert [event.index for event in sink.events] == [1]  # the question is not asked again


@both_styles
@pytest.mark.rule(6)
async def test_an_answer_that_comes_before_the_question_is_not_lost(kit, workflow) -> None:
    early = (kit.event(1, LEGACY, response="Ada"),)
    outcome, sink = await kit.run(kit.runner(workflow()), inbound=early)
    assert outcome.result == "hello Ada"
    assert sink.types() == ["InputRequiredEvent", "StopEvent"]


@both_styles
async def test_a_live_answer_goes_in_at_once(kit, workflow) -> None:
    run, sink = kit.start(kit.runner(workflow()))
    await sink.until(lambda sink: sink.events)
    run.deliver([kit.event(1, response="Ada")])
    outcome = await run.outcome()
    if isinstance(outcome, Waiting):  # it was parked before: the store then starts it again
        outcome, _ = await kit.resume(kit.runner(workflow()), outcome, kit.event(1, response="Ada"))
    assert outcome.result == "hello Ada"


@both_styles
@pytest.mark.parametrize("name", ["workflows.events.HumanResponseEvent", LEGACY])
async def test_both_families_of_names_are_understood(kit, workflow, name) -> None:
    outcome, _ = await kit.run(kit.runner(workflow()), inbound=(kit.event(1, name, response="B"),))
    assert outcome.result == "hello B"


async def test_early_events_answer_one_question_each_in_order(kit) -> None:
    early = tuple(kit.event(seq, n=seq) for seq in (1, 2, 3))
    outcome, _ = await kit.run(kit.runner(Chat()), {"questions": 3}, inbound=early)
    assert outcome.result == "[1, 2, 3]"


async def test_a_conversation_over_several_parkings(kit) -> None:
    runner = kit.runner(Chat())
    outcome, _ = await kit.run(runner, {"questions": 4})
    for n in (1, 2, 3, 4):
        outcome, _ = await kit.resume(runner, outcome, kit.event(n, n=n))
    assert outcome.result == "[1, 2, 3, 4]"


class Go(Event):
    pass


class Two(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Go)
        reply = await ctx.wait_for_event(HumanResponseEvent)
        return StopEvent(result=reply.n)


async def test_an_event_for_a_later_question_is_kept_through_parking(kit) -> None:
    runner = kit.runner(Two())
    parked, _ = await kit.run(runner, inbound=(kit.event(1, n="early"),))
    assert parked.consumed_seq == 1
    done, _ = await kit.resume(runner, parked, kit.event(2, f"{__name__}.Go"))
    assert done.result == "early"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"value": {}}',
        '{"__is_pydantic": true, "value": {}, "qualified_name": "os.system"}',
        '{"__is_pydantic": true, "value": {}, "qualified_name": "subprocess.Popen"}',
        '{"__is_pydantic": true, "value": {}, "qualified_name": "antigravity.Event"}',
        '{"__is_pydantic": true, "value": {}, "qualified_name": "workflows.events.Nothing"}',
        '{"__is_pydantic": true, "value": {}, "qualified_name": "pydantic.BaseModel"}',
        '{"value": {}, "qualified_name": "workflows.events.WorkflowIdleEvent"}',
        '{"value": 3, "qualified_name": "workflows.events.HumanResponseEvent"}',
        '{"__is_component": true, "value": {}, "qualified_name": "antigravity.X"}',
    ],
)
async def test_what_is_no_event_is_dropped_counted_and_logged(kit, caplog, text) -> None:
    runner = kit.runner(Asks())
    with caplog.at_level(logging.WARNING):
        outcome, _ = await kit.run(
            runner, inbound=(InboundEvent(1, text), kit.event(2, response="Ada"))
        )
    assert outcome.result == "hello Ada"
    assert runner.dropped_events == 1
    assert "event 1 dropped" in caplog.text
    assert "antigravity" not in sys.modules


# -- each exactly once ---------------------------------------------------------------------------
class Tally(Workflow):
    """Takes an event per question; between questions it is busy for a moment."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        told = []
        for number in range(ev.questions):
            await asyncio.sleep(0)
            reply = await ctx.wait_for_event(HumanResponseEvent, waiter_id=f"question {number}")
            told.append(reply.n)
        return StopEvent(result=told)


class TallyByStep(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> InputRequiredEvent:
        await ctx.store.set("questions", ev.questions)
        await ctx.store.set("told", [])
        return InputRequiredEvent()

    @step(num_workers=1)
    async def take(self, ctx: Context, ev: HumanResponseEvent) -> StopEvent | InputRequiredEvent:
        told = [*await ctx.store.get("told"), ev.n]
        await ctx.store.set("told", told)
        if len(told) < await ctx.store.get("questions"):
            return InputRequiredEvent()
        return StopEvent(result=told)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    workflow=st.sampled_from([Tally, TallyByStep]),
    early=st.integers(0, 4),
    live=st.lists(st.integers(0, 6), max_size=4),
    repeats=st.booleans(),
    strays=st.booleans(),
)
@pytest.mark.rule(6)
async def test_every_event_is_taken_once_and_in_order(
    kit, workflow, early, live, repeats, strays
) -> None:
    """``live``: how many turns of the loop before each live event; the rest comes by resuming."""
    total = early + len(live) + 1
    accepted = [kit.event(seq, n=seq) for seq in range(1, total + 1)]
    if strays:
        accepted.insert(early, kit.event(0, f"{__name__}.Go"))
    accepted = [InboundEvent(seq, event.event) for seq, event in enumerate(accepted, 1)]
    runner = kit.runner(workflow())
    run, _ = kit.start(runner, {"questions": total}, inbound=tuple(accepted[:early]))
    sent = early
    for turns in live:
        for _ in range(turns):
            await asyncio.sleep(0)
        run.deliver(accepted[(0 if repeats else sent) : sent + 1])
        sent += 1
    async with asyncio.timeout(10):
        outcome = await run.outcome()
    while isinstance(outcome, Waiting):
        sent = max(sent, min(len(accepted), outcome.consumed_seq + 1))
        rest = tuple(event for event in accepted[:sent] if event.seq > outcome.consumed_seq)
        outcome, _ = await kit.resume(runner, outcome, *rest)
    assert isinstance(outcome, Succeeded), outcome
    assert outcome.result == str(list(range(1, total + 1)))


# -- other processes and other code --------------------------------------------------------------
WORKER = """
import asyncio, sys, msgspec
from llamadeploy.signing import KeyRing
from llamadeploy.state_stores.records import Execution
from llamadeploy.worker.loader import load_workflow
from llamadeploy.worker.runner import WorkflowRunner

class Sink:
    def emit(self, event): print("event", event.data, file=sys.stderr)
    emit_last = emit
    def resident(self, reason): print("resident", reason, file=sys.stderr)

async def main():
    keys, path, source, execution = sys.argv[1:]
    workflow = load_workflow(path, source)
    runner = WorkflowRunner(workflow, KeyRing.parse(keys), code_version="v1")
    run = runner.start(msgspec.json.decode(execution, type=Execution), Sink())
    outcome = await run.outcome()
    print(msgspec.json.encode({"kind": type(outcome).__name__, "outcome": outcome}).decode())

asyncio.run(main())
"""

HITL = """
from workflows import Context, Workflow, step
from workflows.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Event
from pydantic import BaseModel

class Money(BaseModel):
    cents: int

class State(BaseModel):
    bill: Money = Money(cents=0)

class Approval(HumanResponseEvent):
    by: str

class Waits(Workflow):
    @step
    async def ask(self, ctx: Context[State], ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as state:
            state.bill = Money(cents=ev.cents)
        answer = await ctx.wait_for_event(Approval, waiter_event=InputRequiredEvent(q="?"))
        bill = (await ctx.store.get_state()).bill
        return StopEvent(result=f"{bill.cents} approved by {answer.by}")

class Steps(Workflow):
    @step
    async def ask(self, ctx: Context[State], ev: StartEvent) -> InputRequiredEvent:
        async with ctx.store.edit_state() as state:
            state.bill = Money(cents=ev.cents)
        return InputRequiredEvent(q="?")
    @step
    async def take(self, ctx: Context[State], ev: Approval) -> StopEvent:
        bill = (await ctx.store.get_state()).bill
        return StopEvent(result=f"{bill.cents} approved by {ev.by}")
"""


def in_a_process(kit, path: str, source: Path, execution) -> dict:
    import msgspec

    arguments = [kit.keyring.dump(), path, str(source), msgspec.json.encode(execution).decode()]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("attribute", ["Waits", "Steps"])
@pytest.mark.rule(7)
def test_another_process_goes_on_where_the_first_was_parked(kit, tmp_path, attribute) -> None:
    (tmp_path / "approvals.py").write_text(HITL)
    path = f"approvals:{attribute}"
    first = in_a_process(kit, path, tmp_path, kit.execution({"cents": 1250}))
    assert first["kind"] == "Waiting"
    parked = first["outcome"]
    answer = {
        "__is_pydantic": True,
        "value": {"by": "Ada"},
        "qualified_name": "approvals.Approval",
    }
    resumed = kit.execution(
        snapshot=parked["snapshot"],
        consumed_seq=parked["consumed_seq"],
        base_index=parked["next_index"],
        inbound=(InboundEvent(1, json.dumps(answer)),),
    )
    second = in_a_process(kit, path, tmp_path, resumed)
    assert second["outcome"]["result"] == "1250 approved by Ada"


@pytest.mark.rule(7)
async def test_code_without_the_parked_step_is_a_clear_failure(kit) -> None:
    class Newer(Workflow):
        @step
        async def ask_differently(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    parked, _ = await kit.run(kit.runner(Asks()))
    newer = kit.runner(Newer(), code_version="v2")
    outcome, _ = await kit.resume(newer, parked, parked_code_version="v1")
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert "step(s) ask; the workflow now has ask_differently" in outcome.result
    assert "parked by code version v1, this is v2" in outcome.result


async def test_code_without_a_parked_type_is_a_clear_failure(kit, monkeypatch) -> None:
    parked, _ = await kit.run(kit.runner(Two()))
    monkeypatch.delitem(globals(), "Go")
    outcome, _ = await kit.resume(kit.runner(Two()), parked)
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert f"the type '{__name__}.Go' is neither declared" in outcome.result


async def test_a_snapshot_that_is_not_ours_fails(kit) -> None:
    parked, _ = await kit.run(kit.runner(Asks()))
    for bad in (parked.snapshot.replace('"version":1', '"version":2'), "x", ""):
        outcome, _ = await kit.run(kit.runner(Asks()), snapshot=bad)
        assert outcome.data["error"]["type"] == "SignatureError"
        assert not outcome.retryable


async def test_a_context_does_not_pass_for_a_snapshot(kit) -> None:
    done, _ = await kit.run(kit.runner(Asks()), inbound=(kit.event(1, response="x"),))
    assert isinstance(done, Succeeded)
    outcome, _ = await kit.run(kit.runner(Asks()), snapshot=done.context)
    assert outcome.data["error"]["type"] == "SignatureError"


# -- requirements --------------------------------------------------------------------------------
class Picky(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        reply = await ctx.wait_for_event(
            HumanResponseEvent, requirements={"user": "ada"}, timeout=ev.get("timeout")
        )
        return StopEvent(result=reply.text)


@pytest.mark.rule(7)
async def test_requirements_hold_after_a_resume(kit) -> None:
    runner = kit.runner(Picky())
    parked, _ = await kit.run(runner)
    wrong = kit.event(1, user="bob", text="wrong")
    parked, _ = await kit.resume(runner, parked, wrong)
    assert isinstance(parked, Waiting)
    assert parked.consumed_seq == 1
    done, _ = await kit.resume(runner, parked, kit.event(2, user="ada", text="right"))
    assert done.result == "right"


async def test_a_redelivered_parked_task_without_news_is_parked_again(kit) -> None:
    for workflow in (Asks(), Hands(), Picky()):
        runner = kit.runner(workflow)
        parked, _ = await kit.run(runner)
        again, sink = await kit.resume(runner, parked)
        assert isinstance(again, Waiting)
        assert not sink.events
        assert again.next_index == parked.next_index


# -- time ----------------------------------------------------------------------------------------
@pytest.mark.defect(23)
@pytest.mark.rule(8)
async def test_waiting_does_not_count_towards_the_time_limit(kit) -> None:
    class Works(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0.15)
            reply = await ctx.wait_for_event(HumanResponseEvent)
            return StopEvent(result=reply.n)

    runner = kit.runner(Works(), timeout=0.4)
    parked, _ = await kit.run(runner)
    assert 0.14 < parked.run_seconds < 0.4
    again, _ = await kit.resume(runner, parked, kit.event(1, n=1))  # works 0.15 s once more
    assert again.result == "1"


async def test_used_time_is_carried_over_a_parking(kit) -> None:
    class Works(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0.2)
            reply = await ctx.wait_for_event(HumanResponseEvent)
            return StopEvent(result=reply.n)

    runner = kit.runner(Works(), timeout=0.3)
    parked, _ = await kit.run(runner)
    outcome, _ = await kit.resume(runner, parked, kit.event(1, n=1))
    assert isinstance(outcome, Failed)
    assert "timed out after 0.3 seconds" in outcome.result


@pytest.mark.parametrize("workflow", [Asks, Picky])
@pytest.mark.rule(8)
async def test_a_waiters_time_out_survives_parking(kit, workflow) -> None:
    runner = kit.runner(workflow())
    parked, _ = await kit.run(runner, {"timeout": 0.2})
    assert parked.deadline - time.time() == pytest.approx(0.2, abs=0.15)
    again, _ = await kit.resume(runner, parked)
    assert again.deadline == parked.deadline
    expired, sink = await kit.resume(runner, again, wait_expired=True)
    assert isinstance(expired, Failed)
    assert expired.data["error"]["type"] == "TimeoutError"
    assert "Timed out waiting for HumanResponseEvent" in expired.result
    assert [event.data for event in sink.events] == ["{}"]


async def test_an_answer_wins_over_an_expired_wait(kit) -> None:
    runner = kit.runner(Asks())
    parked, _ = await kit.run(runner, {"timeout": 0.01})
    outcome, _ = await kit.resume(runner, parked, kit.event(1, response="late"), wait_expired=True)
    assert outcome.result == "hello late"


async def test_the_earliest_waiter_sets_the_deadline_and_the_others_go_on(kit) -> None:
    class Ask(Event):
        name: str
        timeout: float

    class Got(Event):
        text: str

    class Several(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Ask | None:
            ctx.send_event(Ask(name="short", timeout=0.05))
            ctx.send_event(Ask(name="long", timeout=60))
            return None

        @step
        async def ask(self, ctx: Context, ev: Ask) -> Got:
            try:
                reply = await ctx.wait_for_event(
                    HumanResponseEvent, waiter_id=ev.name, timeout=ev.timeout
                )
                return Got(text=f"{ev.name}: {reply.n}")
            except TimeoutError:
                return Got(text=f"{ev.name}: nobody")

        @step
        async def end(self, ctx: Context, ev: Got) -> StopEvent | None:
            got = ctx.collect_events(ev, [Got, Got])
            return StopEvent(result=sorted(each.text for each in got)) if got else None

    runner = kit.runner(Several())
    parked, _ = await kit.run(runner)
    assert parked.deadline - time.time() < 1
    parked, _ = await kit.resume(runner, parked, wait_expired=True)
    assert parked.deadline - time.time() > 50
    done, _ = await kit.resume(runner, parked, kit.event(1, n=7))
    assert done.result == "['long: 7', 'short: nobody']"


# -- resident ------------------------------------------------------------------------------------
class Holds(Workflow):
    """Has a live object in its context, so that it cannot be parked."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("lock", threading.Lock())
        reply = await ctx.wait_for_event(HumanResponseEvent, timeout=ev.get("timeout"))
        await ctx.store.set("lock", None)
        return StopEvent(result=reply.n)


@pytest.mark.rule(7)
async def test_a_run_that_cannot_be_saved_waits_in_memory_and_can_be_answered(kit) -> None:
    run, sink = kit.start(kit.runner(Holds(timeout=0.2)))
    await sink.until(lambda sink: sink.reasons)
    assert "key lock: a _thread.lock cannot be written as JSON" in sink.reasons[0]
    await asyncio.sleep(0.3)  # longer than the time limit, which does not run while it waits
    run.deliver([kit.event(1, n=5)])
    assert (await run.outcome()).result == "5"


async def test_a_run_that_waits_for_a_type_it_could_not_find_again_stays_in_memory(kit) -> None:
    class Go(Event):  # another one than the module's
        pass

    class Waits(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Go)
            return StopEvent()

    run, sink = kit.start(kit.runner(Waits()))
    await sink.until(lambda sink: sink.reasons)
    assert f"'{__name__}.Go' is not at the top of its module" in sink.reasons[0]
    run.cancel()
    await run.outcome()


async def test_a_run_in_memory_keeps_its_waiters_time_out(kit) -> None:
    outcome, _ = await kit.run(kit.runner(Holds()), {"timeout": 0.1})
    assert "Timed out waiting" in outcome.result


async def test_a_run_in_memory_is_ended_after_the_wait_time_out(kit) -> None:
    outcome, sink = await kit.run(kit.runner(Holds()), wait_timeout=0.1)
    assert outcome.result == "Nobody answered within 0.1 seconds"
    assert not outcome.retryable
    assert [event.data for event in sink.events] == ["{}"]


async def test_a_run_in_memory_can_be_cancelled(kit) -> None:
    run, sink = kit.start(kit.runner(Holds()))
    await sink.until(lambda sink: sink.reasons)
    run.cancel()
    assert type(await run.outcome()).__name__ == "Stopped"
