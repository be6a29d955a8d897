"""What tests of the worker package share."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from llamadeploy.signing import KeyRing
from llamadeploy.state_stores.records import Execution, InboundEvent, NewEvent
from llamadeploy.worker.contract import Outcome, Waiting
from llamadeploy.worker.runner import WorkflowRunner


class Recorder:
    """A sink that keeps what it gets, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[NewEvent] = []
        self.reasons: list[str] = []
        self.changed = asyncio.Event()

    def emit(self, event: NewEvent) -> None:
        self.events.append(event)
        self.changed.set()

    def emit_last(self, event: NewEvent) -> None:
        self.emit(event)

    def resident(self, reason: str) -> None:
        self.reasons.append(reason)
        self.changed.set()

    def types(self) -> list[str]:
        return [event.type.rpartition(".")[2] for event in self.events]

    async def until(self, condition: Any, timeout: float = 5.0) -> None:
        """Return once ``condition(self)`` holds; it is looked at after each call."""
        async with asyncio.timeout(timeout):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()


class RunnerKit:
    """Makes runners, executions and events."""

    def __init__(self) -> None:
        self.keyring = KeyRing.generate()
        self.attempts = 0

    def runner(self, workflow: Any, **options: Any) -> WorkflowRunner:
        return WorkflowRunner(workflow, self.keyring, **{"code_version": "v1", **options})

    def execution(self, arguments: dict[str, Any] | None = None, **fields: Any) -> Execution:
        self.attempts += 1
        defaults = {
            "task_id": "task",
            "session_id": "session",
            "service": "service",
            "attempt": self.attempts,
            "input": json.dumps(arguments or {}),
        }
        return Execution(**{**defaults, **fields})

    def start(self, runner: WorkflowRunner, arguments: Any = None, **fields: Any) -> Any:
        """A run and its sink."""
        sink = Recorder()
        return runner.start(self.execution(arguments, **fields), sink), sink

    async def run(
        self, runner: WorkflowRunner, arguments: Any = None, **fields: Any
    ) -> tuple[Outcome, Recorder]:
        """The outcome of a run and its sink."""
        run, sink = self.start(runner, arguments, **fields)
        async with asyncio.timeout(10):
            return await run.outcome(), sink

    async def resume(
        self, runner: WorkflowRunner, parked: Waiting, *events: InboundEvent, **fields: Any
    ) -> tuple[Outcome, Recorder]:
        """Run on from where a run was parked, as the store would start it."""
        assert isinstance(parked, Waiting), parked
        return await self.run(
            runner,
            snapshot=parked.snapshot,
            consumed_seq=parked.consumed_seq,
            base_index=parked.next_index,
            run_seconds=parked.run_seconds,
            inbound=events,
            **fields,
        )

    def event(
        self,
        seq: int,
        name: str = "workflows.events.HumanResponseEvent",
        **value: Any,
    ) -> InboundEvent:
        """An accepted event as a client of 0.8.1 sends it."""
        envelope = {"__is_pydantic": True, "value": {"_data": value}, "qualified_name": name}
        return InboundEvent(seq, json.dumps(envelope))


@pytest.fixture
def kit() -> RunnerKit:
    return RunnerKit()
