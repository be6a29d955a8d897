"""The compare-and-sets against a small model of what they should do.

The machine plays clients, workers (with stale attempts, repeated and late calls), a queue that
delivers what was published in any order and more than once, publishers that die, and the timer.
After every step the store must stand where the model stands. In the end everything that is left is
played to its end by deliveries of published messages alone: an accepted task always ends.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llamadeploy.state_stores.records import Completion as Completed
from llamadeploy.state_stores.records import (
    Dropped,
    Execution,
    ExecutionKey,
    NewEvent,
    NewTask,
    OutboxRow,
    ParkRequest,
    RepairPolicy,
    StartRequest,
)
from llamadeploy.types import TaskState

LEASE = 10.0
T = TypeVar("T")
TERMINAL = ("succeeded", "failed", "cancelled")


@dataclass
class ModelTask:
    """What the model knows of a task."""

    task_id: str
    session: str
    detached: bool
    max_retries: int
    parent: str | None
    state: str = "queued"
    attempt: int = 0
    crashes: int = 0
    lease: float = 0.0
    inbound: int = 0
    consumed: int = 0
    log: list[tuple[int, int]] = field(default_factory=list)
    result: str | None = None


@dataclass(frozen=True)
class Attempt:
    """An attempt that a worker believes it has; it may be stale."""

    key: ExecutionKey
    execution_id: str


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self, opener: Any, clock: Any) -> None:
        super().__init__()
        self.opener, self.clock = opener, clock
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.tasks: dict[str, ModelTask] = {}
        self.orders: dict[str, list[str]] = {}
        self.attempts: list[Attempt] = []
        self.queue: list[str] = []
        self.numbers = 0

    @initialize()
    def open(self) -> None:
        async def open_with_sessions() -> Any:
            store = await self.opener(Path(self.folder.name), "ns", self.clock)
            for session in ("s0", "s1"):
                await store.create_session(session)
                self.orders[session] = []
            return store

        self.store = self.call(open_with_sessions())

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    # -- the model's own steps -----------------------------------------------------------------
    def turn(self, task: ModelTask) -> bool:
        """Whether the task is queued and may be started."""
        if task.state != "queued":
            return False
        return task.detached or self.orders[task.session][0] == task.task_id

    def end(self, task: ModelTask, state: str, result: str | None) -> None:
        assert task.result is None, "one result"
        task.state, task.result = state, result
        if not task.detached:
            self.orders[task.session].remove(task.task_id)

    def lose(self, task: ModelTask) -> None:
        task.crashes += 1
        if task.crashes > task.max_retries:
            record = self.call(self.store.get_task(task.task_id))
            assert record.data["error"]["type"] == "WorkerLost"
            self.end(task, "failed", record.result)
        else:
            task.state = "queued"

    def current(self, attempt: Attempt) -> ModelTask | None:
        task = self.tasks[attempt.key.task_id]
        live = task.state == "running" and task.attempt == attempt.key.attempt
        return task if live else None

    def publish(self, rows: tuple[OutboxRow, ...], dies: bool = False) -> None:
        """Publish rows as their owner does, or die before that."""
        for row in rows:
            assert self.turn(self.tasks[row.task_id]), "only whose turn it is gets a message"
        if not dies:
            self.queue += [row.task_id for row in rows]
            self.call(self.store.outbox_done([row.row_id for row in rows]))

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    # -- clients -------------------------------------------------------------------------------
    @rule(
        session=st.sampled_from(["s0", "s1"]),
        detached=st.booleans(),
        max_retries=st.integers(0, 2),
        parent=st.integers(0, 99),
        dies=st.booleans(),
    )
    def create(
        self, session: str, detached: bool, max_retries: int, parent: int, dies: bool
    ) -> None:
        callers = [t.task_id for t in self.tasks.values() if t.state == "running"]
        caller = callers[parent % len(callers)] if callers and parent < 50 else None
        task = ModelTask(f"t{self.number()}", session, detached, max_retries, caller)
        created = self.call(
            self.store.create_task(
                NewTask(
                    task_id=task.task_id,
                    session_id=session,
                    service="svc",
                    input="{}",
                    max_retries=max_retries,
                    detached_context=detached,
                    parent=caller,
                )
            )
        )
        self.tasks[task.task_id] = task
        if not detached:
            self.orders[session].append(task.task_id)
        assert bool(created.publish) == self.turn(task)
        self.publish(created.publish, dies)

    @precondition(lambda self: self.tasks)
    @rule(pick=st.integers(0, 99), dies=st.booleans())
    def send_event(self, pick: int, dies: bool) -> None:
        task = self.pick(pick)
        outcome = self.call(self.store.append_inbound(task.task_id, "e"))
        if task.state in TERMINAL:
            assert outcome.state.value == task.state
            assert outcome.publish == ()
            return
        task.inbound += 1
        assert outcome.seq == task.inbound
        assert (outcome.owner is not None) == (task.state == "running")
        assert bool(outcome.publish) == (task.state == "waiting")
        if task.state == "waiting":
            task.state = "queued"
        self.publish(outcome.publish, dies)

    @precondition(lambda self: self.tasks)
    @rule(pick=st.integers(0, 99), dies=st.booleans())
    def cancel(self, pick: int, dies: bool) -> None:
        task = self.pick(pick)
        outcome = self.call(self.store.cancel(task.task_id, "why"))
        assert outcome.changed == (task.state not in TERMINAL)
        running = set()
        if outcome.changed:
            for ended in self.tree(task):
                if ended.state == "running":
                    running.add(ended.task_id)
                self.end(ended, "cancelled", "why")
        assert outcome.state.value == task.state
        assert {task_id for task_id, _ in outcome.nudge} == running
        self.publish(outcome.publish, dies)

    def tree(self, task: ModelTask) -> list[ModelTask]:
        """The task and the unfinished calls below it."""
        below = [
            child
            for child in self.tasks.values()
            if child.parent == task.task_id and child.state not in TERMINAL
        ]
        return [task] + [ended for child in below for ended in self.tree(child)]

    def pick(self, number: int) -> ModelTask:
        return list(self.tasks.values())[number % len(self.tasks)]

    # -- workers -------------------------------------------------------------------------------
    @precondition(lambda self: self.tasks)
    @rule(pick=st.integers(0, 99), worker=st.sampled_from(["w0", "w1"]))
    def deliver_anything(self, pick: int, worker: str) -> None:
        """A delivery out of nowhere: a redelivery, a forgotten copy."""
        self.deliver(self.pick(pick), worker, f"x{self.number()}")

    @precondition(lambda self: self.queue)
    @rule(pick=st.integers(0, 99), again=st.booleans())
    def deliver_published(self, pick: int, again: bool) -> None:
        index = pick % len(self.queue)
        task_id = self.queue[index] if again else self.queue.pop(index)
        self.deliver(self.tasks[task_id], "w0", f"x{self.number()}")

    def deliver(self, task: ModelTask, worker: str, execution_id: str) -> None:
        expired = task.state == "running" and task.lease <= self.clock.now
        reply = self.call(
            self.store.start(
                StartRequest(
                    task_id=task.task_id,
                    execution_id=execution_id,
                    worker_id=worker,
                    lease=LEASE,
                )
            )
        )
        if expired:
            self.lose(task)
        if task.state in TERMINAL:
            assert reply == Dropped("terminal")
        elif task.state == "running":
            assert reply == Dropped("leased")
        elif not expired and not self.turn(task):
            assert reply == Dropped("not_due")
        else:
            assert isinstance(reply, Execution), reply
            task.attempt += 1
            assert reply.attempt == task.attempt, "attempts are never used twice"
            assert [e.seq for e in reply.inbound] == list(
                range(task.consumed + 1, task.inbound + 1)
            ), "no event is lost, none comes twice"
            assert reply.alone == (0 < task.crashes == task.max_retries)
            task.state, task.lease = "running", self.clock.now + LEASE
            self.attempts.append(Attempt(reply.key, execution_id))

    @precondition(lambda self: self.attempts)
    @rule(pick=st.integers(0, 99))
    def repeat_start(self, pick: int) -> None:
        attempt = self.attempts[pick % len(self.attempts)]
        task = self.current(attempt)
        if task is None:
            return
        reply = self.call(
            self.store.start(
                StartRequest(
                    task_id=task.task_id,
                    execution_id=attempt.execution_id,
                    worker_id="w0",
                    lease=LEASE,
                )
            )
        )
        assert isinstance(reply, Execution)
        assert reply.key == attempt.key
        task.lease = self.clock.now + LEASE

    @precondition(lambda self: self.attempts)
    @rule(pick=st.integers(0, 99), ok=st.booleans(), dies=st.booleans())
    def finish(self, pick: int, ok: bool, dies: bool) -> None:
        attempt = self.attempts[pick % len(self.attempts)]
        task = self.current(attempt)
        state = TaskState.SUCCEEDED if ok else TaskState.FAILED
        finished = self.call(
            self.store.finish(Completed(key=attempt.key, state=state, result=f"r{self.number()}"))
        )
        assert finished.accepted == (task is not None)
        if task is not None:
            self.end(task, state.value, f"r{self.numbers}")
        self.publish(finished.publish, dies)

    @precondition(lambda self: self.attempts)
    @rule(pick=st.integers(0, 99), lag=st.integers(0, 2), dies=st.booleans())
    def park(self, pick: int, lag: int, dies: bool) -> None:
        attempt = self.attempts[pick % len(self.attempts)]
        task = self.current(attempt)
        if task is None and self.tasks[attempt.key.task_id].attempt == attempt.key.attempt:
            return  # possibly a repeat of an accepted park; has its own test
        seen = self.tasks[attempt.key.task_id]
        consumed = max(seen.consumed, seen.inbound - lag)
        parked = self.call(
            self.store.park(
                ParkRequest(key=attempt.key, snapshot="s", consumed_seq=consumed, next_index=0)
            )
        )
        assert parked.accepted == (task is not None)
        if task is not None:
            task.consumed = consumed
            task.state = "queued" if task.inbound > consumed else "waiting"
            assert bool(parked.publish) == (task.state == "queued")
        self.publish(parked.publish, dies)

    @precondition(lambda self: self.attempts)
    @rule(pick=st.integers(0, 99), dies=st.booleans())
    def release(self, pick: int, dies: bool) -> None:
        attempt = self.attempts[pick % len(self.attempts)]
        task = self.current(attempt)
        released = self.call(self.store.release(attempt.key))
        assert released.accepted == (task is not None)
        if task is not None:
            task.state = "queued"
        self.publish(released.publish, dies)

    @precondition(lambda self: self.attempts)
    @rule(pick=st.integers(0, 99), index=st.integers(0, 3))
    def emit(self, pick: int, index: int) -> None:
        attempt = self.attempts[pick % len(self.attempts)]
        task = self.current(attempt)
        event = NewEvent(index, "E", "{}")
        appended = self.call(self.store.append_events(attempt.key, [event]))
        assert appended == (task is not None)
        if task is not None and (task.attempt, index) not in task.log:
            task.log.append((task.attempt, index))

    # -- time ----------------------------------------------------------------------------------
    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(dies=st.booleans(), resend=st.sampled_from([None, 5.0]))
    def repair(self, dies: bool, resend: float | None) -> None:
        repaired = self.call(self.store.repair(RepairPolicy(resend_unstarted_after=resend)))
        lost = [
            task
            for task in self.tasks.values()
            if task.state == "running" and task.lease <= self.clock.now
        ]
        assert repaired.lost_leases == len(lost)
        for task in lost:
            self.lose(task)
        self.publish(repaired.publish, dies)

    # -- what always holds ---------------------------------------------------------------------
    @invariant()
    def store_and_model_agree(self) -> None:
        for task in self.tasks.values():
            record = self.call(self.store.get_task(task.task_id))
            assert (record.state.value, record.attempt, record.crashes, record.result) == (
                task.state,
                task.attempt,
                task.crashes,
                task.result,
            ), task.task_id
        for order in self.orders.values():
            live = [self.tasks[task_id].state for task_id in order]
            assert all(state == "queued" for state in live[1:]), "one at a time, in order"

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.logs_are_complete()
            self.everything_ends()
            self.call(self.store.aclose())
        self.runner.close()
        self.folder.cleanup()

    def logs_are_complete(self) -> None:
        for task in self.tasks.values():
            page = self.call(self.store.read_log(task.task_id, 0, 1000))
            assert [(event.attempt, event.index) for event in page.events] == task.log

    def everything_ends(self) -> None:
        for _ in range(20 * len(self.tasks) + 1):
            for task_id in self.queue:
                self.deliver(self.tasks[task_id], "w0", f"x{self.number()}")
            self.queue = []
            for task in list(self.tasks.values()):
                if task.state == "waiting":
                    self.send_event(list(self.tasks).index(task.task_id), False)
                elif task.state == "running":
                    last = [a for a in self.attempts if a.key.task_id == task.task_id][-1]
                    self.finish(self.attempts.index(last), True, False)
            if all(task.state in TERMINAL for task in self.tasks.values()):
                return
            self.clock.advance(6)
            self.repair(False, None)
        raise AssertionError([t for t in self.tasks.values() if t.state not in TERMINAL])


@pytest.mark.parametrize(
    ("scheme", "examples"), [("memory", 60), ("sqlite", 20), ("redis", 40), ("postgresql", 10)]
)
def test_model(scheme: str, examples: int, adapters: dict[str, Any], clock: Any) -> None:
    run_state_machine_as_test(
        lambda: Machine(adapters[scheme], clock),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
