"""A service calls a service: keys that are found again, and ``NetworkWorkflow``."""

from __future__ import annotations

from typing import Any

import pytest
from workflows import Context, Workflow, step
from workflows.events import HumanResponseEvent, StartEvent, StopEvent
from workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed

from llamadeploy.exceptions import ConfigurationError, ServiceCallError
from llamadeploy.state_stores.records import Execution
from llamadeploy.worker.calls import call_service
from llamadeploy.worker.contract import Failed, Waiting
from llamadeploy.worker.network_workflow import NetworkWorkflow


class Children:
    """Keeps called tasks by their key, as the control plane does: the same key, the same child."""

    def __init__(self, failing: int = 0) -> None:
        self.made: dict[str, tuple[str, dict[str, Any]]] = {}
        self.asked: list[str] = []
        self.failing = failing

    async def call(
        self, execution: Execution, service: str, arguments: dict[str, Any], call_key: str
    ) -> str:
        self.asked.append(call_key)
        self.made.setdefault(call_key, (service, arguments))
        number = list(self.made).index(call_key)
        if number < self.failing:
            raise ServiceCallError(f"child {number} failed")
        return f"child {number}"


class Calls(Workflow):
    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        same = [await call_service("other", x=1), await call_service("other", x=1)]
        return StopEvent(result=[*same, await call_service("other", x=2)])


async def test_equal_calls_are_calls_of_their_own(kit) -> None:
    children = Children()
    outcome, _ = await kit.run(kit.runner(Calls(), caller=children))
    assert outcome.result == "['child 0', 'child 1', 'child 2']"
    assert children.made[children.asked[0]] == ("other", {"x": 1})


@pytest.mark.rule(14)
async def test_a_run_from_the_start_finds_its_children(kit) -> None:
    children = Children()
    runner = kit.runner(Calls(), caller=children)
    first, _ = await kit.run(runner)
    again, _ = await kit.run(runner)
    assert again.result == first.result
    assert len(children.made) == 3


async def test_a_key_of_ones_own_finds_the_same_call(kit) -> None:
    class Keyed(Workflow):
        @step
        async def run_it(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=[await call_service("a", key="k", n=n) for n in range(3)])

    children = Children()
    outcome, _ = await kit.run(kit.runner(Keyed(), caller=children))
    assert outcome.result == "['child 0', 'child 0', 'child 0']"
    assert children.asked == ["k", "k", "k"]


async def test_a_step_that_runs_again_after_a_wait_finds_its_calls_and_others_make_new_ones(
    kit,
) -> None:
    class Waits(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> HumanResponseEvent:
            before = await call_service("other", x=1)
            await ctx.wait_for_event(HumanResponseEvent, requirements={"go": True})
            return HumanResponseEvent(before=before, go=False)

        @step
        async def end(self, ev: HumanResponseEvent) -> StopEvent | None:
            if ev.go:
                return None
            return StopEvent(result=[ev.before, await call_service("other", x=1)])

    children = Children()
    runner = kit.runner(Waits(), caller=children)
    parked, _ = await kit.run(runner)
    assert isinstance(parked, Waiting)
    outcome, _ = await kit.resume(runner, parked, kit.event(1, go=True))
    assert outcome.result == "['child 0', 'child 1']"
    assert len(children.made) == 2


async def test_a_retry_calls_again_only_what_failed(kit) -> None:
    class Retries(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
        async def run_it(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await call_service("flaky"))

    children = Children(failing=2)
    runner = kit.runner(Retries(), caller=children)
    outcome, _ = await kit.run(runner)
    assert outcome.result == "child 2"
    again, _ = await kit.run(runner)
    assert again.result == "child 2"
    assert len(children.made) == 3


async def test_a_failed_call_fails_the_caller(kit) -> None:
    outcome, _ = await kit.run(kit.runner(Calls(), caller=Children(failing=1)))
    assert isinstance(outcome, Failed)
    assert outcome.data["error"]["type"] == "ServiceCallError"


async def test_outside_of_a_run_it_is_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match="only be called inside a step"):
        await call_service("other")


async def test_without_a_control_plane_it_is_a_clear_error(kit) -> None:
    outcome, _ = await kit.run(kit.runner(Calls()))
    assert "no control plane" in outcome.result


async def test_arguments_without_a_json_form_are_a_clear_error(kit) -> None:
    class Bad(Workflow):
        @step
        async def run_it(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await call_service("other", x=object()))

    outcome, _ = await kit.run(kit.runner(Bad(), caller=Children()))
    assert "the arguments for the service 'other' have no JSON form" in outcome.result


class Outer(Workflow):
    def __init__(self, inner: Workflow) -> None:
        super().__init__()
        self.inner = inner

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        first = await self.inner.run(message="a", key="k", service="s")
        second = await self.inner.run(message="a", key="k", service="s")
        return StopEvent(result=[first, second])


async def test_a_network_workflow_is_a_call_with_the_start_events_fields(kit) -> None:
    children = Children()
    runner = kit.runner(Outer(NetworkWorkflow("remote", timeout=5)), caller=children)
    outcome, _ = await kit.run(runner)
    assert outcome.result == "['child 0', 'child 1']"
    fields = {"message": "a", "key": "k", "service": "s"}
    assert list(children.made.values()) == [("remote", fields)] * 2
    assert (await kit.run(runner))[0].result == outcome.result
    assert len(children.made) == 2


async def test_a_network_workflow_may_be_served_itself(kit) -> None:
    children = Children()
    outcome, _ = await kit.run(kit.runner(NetworkWorkflow("r"), caller=children), {"x": 1})
    assert outcome.result == "child 0"


def test_the_deprecated_parameter_is_announced() -> None:
    with pytest.warns(DeprecationWarning, match="control_plane_config"):
        NetworkWorkflow("remote", control_plane_config=object())


def test_it_is_found_in_calls_too() -> None:
    from llamadeploy.worker import calls

    assert calls.NetworkWorkflow is NetworkWorkflow
    with pytest.raises(AttributeError):
        _ = calls.Nothing
