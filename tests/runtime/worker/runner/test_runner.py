"""Starting runs: results, events, failures, time-outs, contexts."""

from __future__ import annotations

import asyncio
import datetime
import gc
import json
import subprocess
import sys
import time
from decimal import Decimal
from typing import Any

import pytest
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.span_handlers import SimpleSpanHandler
from pydantic import Field
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent
from workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.worker.contract import Failed, Stopped, Succeeded, Waiting


class Progress(Event):
    n: int


class Anything(Event):
    value: Any = None


class Echo(Workflow):
    @step
    async def echo(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Progress(n=1))
        ctx.write_event_to_stream(Event(text="free form"))
        return StopEvent(result={"message": ev.message})


class Failing(Workflow):
    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        raise LookupError("no such thing")


class Counting(Workflow):
    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if ev.get("fail"):
            await ctx.store.set("n", 1000)
            raise ValueError("after a change")
        n = await ctx.store.get("n", default=0) + 1
        await ctx.store.set("n", n)
        return StopEvent(result=n)


def test_importing_the_runner_does_not_import_the_workflow_library() -> None:
    code = "import sys, llamadeploy.worker.runner, llamadeploy.worker.loader, \
llamadeploy.worker.calls; print('workflows' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


async def test_the_result_is_the_text_of_what_the_workflow_returned(kit) -> None:
    outcome, _ = await kit.run(kit.runner(Echo()), {"message": "hi"})
    assert outcome == Succeeded("{'message': 'hi'}", outcome.context)


async def test_events_are_numbered_and_dumped_as_the_original_does(kit) -> None:
    _, sink = await kit.run(kit.runner(Echo()), {"message": "hi"}, base_index=7)
    assert [(event.index, event.data) for event in sink.events] == [
        (7, '{"n": 1}'),
        (8, '{"_data": {"text": "free form"}}'),
        (9, "{}"),
    ]
    assert sink.events[0].type == f"{Progress.__module__}.Progress"
    assert sink.events[2].type == "workflows.events.StopEvent"


async def test_a_custom_stop_event_shows_its_fields(kit) -> None:
    class Answer(StopEvent):
        answer: str

    class Custom(Workflow):
        @step
        async def run_it(self, ev: StartEvent) -> Answer:
            return Answer(answer="x")

    outcome, sink = await kit.run(kit.runner(Custom()))
    assert outcome.result == "answer='x'"
    assert sink.events[-1].data == '{"answer": "x"}'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime.date(2024, 2, 29), "2024-02-29"),
        ({1, 2}, [1, 2]),
        (Decimal("1.5"), "1.5"),
        (b"\xff", "_w=="),
        (float("nan"), None),
        ({("a", 1): 2}, {"a,1": 2}),
        (object, "<class 'object'>"),
    ],
)
async def test_values_without_a_json_form_do_not_stop_the_stream(kit, value, shown) -> None:
    class Odd(Workflow):
        @step
        async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Anything(value=value))
            return StopEvent(result="done")

    outcome, sink = await kit.run(kit.runner(Odd()))
    assert outcome.result == "done"
    assert json.loads(sink.events[0].data) == {"value": shown}


async def test_an_event_that_cannot_be_dumped_at_all_says_so(kit) -> None:
    class Odd(Workflow):
        @step
        async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
            loop: list[Any] = []
            loop.append(loop)
            ctx.write_event_to_stream(Anything(value=loop))
            return StopEvent(result="done")

    outcome, sink = await kit.run(kit.runner(Odd()))
    assert outcome.result == "done"
    assert "could not be serialised" in json.loads(sink.events[0].data)["error"]


async def test_who_listens_to_the_library_s_spans_hears_run_and_step(kit) -> None:
    class Spans(SimpleSpanHandler):
        def names(self) -> set[str]:
            return {span.id_.rpartition(".")[2].partition("-")[0] for span in self.completed_spans}

    root = get_dispatcher()
    spans = Spans()
    runner = kit.runner(Echo())
    assert (await kit.run(runner, {"message": "before"}))[0] is not None
    root.add_span_handler(spans)
    try:
        await kit.run(runner, {"message": "heard"})
    finally:
        root.span_handlers.remove(spans)
    assert {"run", "echo"} <= spans.names(), spans.completed_spans


async def test_internal_events_never_leave(kit) -> None:
    _, sink = await kit.run(kit.runner(Echo()), {"message": "hi"})
    assert sink.types() == ["Progress", "Event", "StopEvent"]


async def test_an_exception_is_a_failure_with_type_message_and_traceback(kit) -> None:
    outcome, sink = await kit.run(kit.runner(Failing()))
    assert isinstance(outcome, Failed)
    assert outcome.result == "no such thing"
    assert outcome.retryable
    assert outcome.data["state"] == "failed"
    assert outcome.data["error"]["type"] == "LookupError"
    assert outcome.data["error"]["message"] == "no such thing"
    assert "raise LookupError" in outcome.data["error"]["traceback"]
    assert [event.data for event in sink.events] == ["{}"]


async def test_a_steps_own_retries_come_first(kit) -> None:
    tries: list[int] = []

    class Flaky(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
        async def run_it(self, ev: StartEvent) -> StopEvent:
            tries.append(1)
            if len(tries) < 3:
                raise ConnectionError("again")
            return StopEvent(result="third time")

    outcome, sink = await kit.run(kit.runner(Flaky()))
    assert (outcome.result, len(tries), sink.types()) == ("third time", 3, ["StopEvent"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("null", "must be a JSON object"),
        ("[1]", "must be a JSON object"),
        ('"x"', "must be a JSON object"),
    ],
)
async def test_bad_input_is_a_clear_failure_that_is_not_retried(kit, text, says) -> None:
    outcome, sink = await kit.run(kit.runner(Echo()), input=text)
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert says in outcome.result
    assert not sink.events


async def test_wrong_arguments_name_the_field_and_what_was_given(kit) -> None:
    class Order(StartEvent):
        amount: int = Field(gt=0)

    class Shop(Workflow):
        @step
        async def order(self, ev: Order) -> StopEvent:
            return StopEvent(result=ev.amount)

    runner = kit.runner(Shop())
    outcome, _ = await kit.run(runner, {"count": 3})
    assert not outcome.retryable
    assert "start event Order: amount: Field required (given: count)" in outcome.result
    outcome, _ = await kit.run(runner, {"amount": -1, "self": 1})
    assert not outcome.retryable
    assert (await kit.run(runner, {"amount": "3"}))[0].result == "3"


async def test_arguments_may_be_called_like_the_librarys_own_parameters(kit) -> None:
    class Names(Workflow):
        @step
        async def run_it(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=[ev.ctx, ev.run_id, ev.start_event])

    arguments = {"ctx": 1, "run_id": 2, "start_event": 3}
    outcome, _ = await kit.run(kit.runner(Names()), arguments)
    assert outcome.result == "[1, 2, 3]"


def test_something_else_than_a_workflow_is_refused(kit) -> None:
    with pytest.raises(ConfigurationError, match="cannot serve a dict"):
        kit.runner({})


# -- time ----------------------------------------------------------------------------------------
class Slow(Workflow):
    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(ev.seconds)
        return StopEvent(result="slept")


async def test_the_services_time_limit_replaces_the_workflows_own(kit) -> None:
    workflow = Slow(timeout=0.05)
    outcome, _ = await kit.run(kit.runner(workflow, timeout=5), {"seconds": 0.2})
    assert outcome.result == "slept"
    assert workflow._timeout == 0.05


async def test_without_one_the_workflows_own_limit_holds(kit) -> None:
    outcome, sink = await kit.run(kit.runner(Slow(timeout=0.05)), {"seconds": 5})
    assert isinstance(outcome, Failed)
    assert outcome.result == "Operation timed out after 0.05 seconds. Currently active steps: sleep"
    assert outcome.data["error"]["type"] == "WorkflowTimeoutError"
    assert not outcome.retryable
    assert [event.data for event in sink.events] == ["{}"]


async def test_a_workflow_without_a_limit_has_none(kit) -> None:
    outcome, _ = await kit.run(kit.runner(Slow(timeout=None)), {"seconds": 0.05})
    assert outcome.result == "slept"


async def test_the_workflow_itself_keeps_its_limit_when_it_is_run_elsewhere(kit) -> None:
    workflow = Slow(timeout=0.05)
    runner = kit.runner(workflow, timeout=5)
    here, sink = kit.start(runner, {"seconds": 0.3})
    with pytest.raises(Exception, match=r"timed out after 0\.05"):
        await workflow.run(seconds=0.3)
    assert (await here.outcome()).result == "slept"
    assert sink.types() == ["StopEvent"]


# -- contexts ------------------------------------------------------------------------------------
async def test_the_context_goes_from_one_run_to_the_next(kit) -> None:
    runner = kit.runner(Counting())
    context = None
    for expected in "123":
        outcome, _ = await kit.run(runner, context=context)
        assert outcome.result == expected
        context = outcome.context


async def test_a_failed_run_has_no_context_to_save(kit) -> None:
    runner = kit.runner(Counting())
    first, _ = await kit.run(runner)
    failed, _ = await kit.run(runner, {"fail": True}, context=first.context)
    assert isinstance(failed, Failed)
    assert (await kit.run(runner, context=first.context))[0].result == "2"


async def test_no_context_is_written_where_none_is_kept(kit) -> None:
    outcome, _ = await kit.run(kit.runner(Counting()), keep_context=False)
    assert outcome == Succeeded("1", None)


@pytest.mark.parametrize("signed", ["{}", "v1.zz.aa.{}", ""])
@pytest.mark.defect(21)
@pytest.mark.rule(16)
async def test_a_context_that_is_not_ours_fails_the_run(kit, signed) -> None:
    outcome, _ = await kit.run(kit.runner(Counting()), context=signed)
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert outcome.data["error"]["type"] == "SignatureError"


@pytest.mark.parametrize("kept", [True, False])
async def test_a_context_without_a_json_form_fails_the_run_and_names_the_key(kit, kept) -> None:
    class Keeps(Workflow):
        @step
        async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("connection", {"socket": [1, object()], "password": "hunter2"})
            return StopEvent(result="done")

    outcome, _ = await kit.run(kit.runner(Keeps()), keep_context=kept)
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert "key connection" in outcome.result
    assert "a builtins.object at ['socket'][1]" in outcome.result
    assert "hunter2" not in str(outcome)


# -- the workflow object -------------------------------------------------------------------------
async def test_what_steps_write_to_self_is_seen_on_the_users_object(kit) -> None:
    class Tally(Workflow):
        def __init__(self) -> None:
            super().__init__()
            self.runs = 0

        @step
        async def run_it(self, ev: StartEvent) -> StopEvent:
            self.runs += 1
            return StopEvent(result=type(self).__name__)

    workflow = Tally()
    runner = kit.runner(workflow)
    assert [(await kit.run(runner))[0].result for _ in range(3)] == ["Tally"] * 3
    assert workflow.runs == 3


async def test_steps_added_as_functions_and_verbose_workflows_run(kit, capsys) -> None:
    class Open(Workflow):
        pass

    @step(workflow=Open)
    async def free(ev: StartEvent) -> StopEvent:
        return StopEvent(result="free")

    outcome, sink = await kit.run(kit.runner(Open(verbose=True)))
    assert (outcome.result, sink.types()) == ("free", ["StopEvent"])
    assert "[free:0] started" in capsys.readouterr().out


async def test_a_step_may_run_its_own_workflow_and_others(kit) -> None:
    class Nested(Workflow):
        @step
        async def run_it(self, ev: StartEvent) -> StopEvent:
            if ev.depth == 0:
                return StopEvent(result="bottom")
            inner = await self.run(depth=ev.depth - 1)
            other = await Echo().run(message="x")
            return StopEvent(result=[inner, other["message"]])

    outcome, sink = await kit.run(kit.runner(Nested()), {"depth": 1})
    assert (outcome.result, sink.types()) == ("['bottom', 'x']", ["StopEvent"])


async def test_the_librarys_own_limit_of_concurrent_runs_holds(kit) -> None:
    class One(Workflow):
        running = 0
        most = 0

        @step
        async def run_it(self, ev: StartEvent) -> StopEvent:
            One.running += 1
            One.most = max(One.most, One.running)
            await asyncio.sleep(0)
            One.running -= 1
            return StopEvent(result="done")

    runner = kit.runner(One(num_concurrent_runs=2))
    await asyncio.gather(*(kit.run(runner) for _ in range(10)))
    assert One.most == 2


async def test_an_invalid_workflow_is_a_clear_failure(kit) -> None:
    class Other(Event):
        pass

    class Invalid(Workflow):
        @step
        async def run_it(self, ev: StartEvent) -> Other:
            return Other()

        @step
        async def stop(self, ev: Progress) -> StopEvent:
            return StopEvent()

    outcome, _ = await kit.run(kit.runner(Invalid()))
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert "Progress" in outcome.result


# -- quantity ------------------------------------------------------------------------------------
async def test_a_thousand_concurrent_runs_leave_nothing_behind(kit) -> None:
    runner = kit.runner(Echo())
    await kit.run(runner, {"message": "warm"})
    before = len(asyncio.all_tasks())
    runs = [kit.start(runner, {"message": n}, task_id=str(n))[0] for n in range(990)]
    runs += [kit.start(runner, {}, input="{", task_id="bad")[0] for _ in range(10)]
    outcomes = await asyncio.gather(*(run.outcome() for run in runs))
    assert sum(isinstance(outcome, Succeeded) for outcome in outcomes) == 990
    del runs, outcomes
    gc.collect()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    assert not runner._served.runtime._runs
    assert not len(runner._served.runtime._queues)


async def test_events_leave_at_five_thousand_a_second_and_more(kit) -> None:
    class Chatty(Workflow):
        @step
        async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(10_000):
                ctx.write_event_to_stream(Progress(n=n))
                if n % 100 == 0:
                    await asyncio.sleep(0)
            return StopEvent(result="done")

    began = time.perf_counter()
    _, sink = await kit.run(kit.runner(Chatty()))
    assert [event.index for event in sink.events] == list(range(10_001))
    assert json.loads(sink.events[9_999].data) == {"n": 9_999}
    assert time.perf_counter() - began < 2.0


async def test_cancel_before_the_run_has_begun(kit) -> None:
    run, sink = kit.start(kit.runner(Echo()), {"message": "hi"})
    run.cancel()
    run.cancel()
    assert await run.outcome() == Stopped()
    assert not sink.events


async def test_a_run_that_can_never_go_on_is_ended_with_a_clear_error(kit) -> None:
    class Stuck(Workflow):
        @step
        async def run_it(self, ev: StartEvent) -> StopEvent | None:
            return None

    outcome, sink = await kit.run(kit.runner(Stuck(timeout=None)))
    assert isinstance(outcome, Failed)
    assert "stopped without a result" in outcome.result
    assert [event.data for event in sink.events] == ["{}"]


async def test_a_run_that_only_an_unasked_event_could_continue_waits_no_longer_than_its_limit(
    kit,
) -> None:
    class Middle(Event):
        pass

    class Perhaps(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Middle | None:
            return None

        @step
        async def end(self, ev: Middle) -> StopEvent:
            return StopEvent(result="went on")

    runner = kit.runner(Perhaps(), timeout=30)
    parked, _ = await kit.run(runner)
    assert isinstance(parked, Waiting)
    assert 25 < parked.deadline - time.time() <= 30
    name = f"{Middle.__module__}.Middle"
    resumed, _ = await kit.resume(runner, parked, kit.event(1, name))
    assert resumed.result == "went on"
    expired, _ = await kit.resume(runner, parked, wait_expired=True)
    assert "stopped without a result" in expired.result
