"""Long times, and a clock that is set back by an hour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamadeploy.state_stores.records import (
    Execution,
    NewTask,
    ParkRequest,
    RepairPolicy,
    StartRequest,
)
from llamadeploy.state_stores.sqlite.store import SQLiteStateStore
from llamadeploy.types import TaskState

NOW = 1_000_000.0
HOUR = 3600.0


async def create(store: Any, task_id: str) -> Any:
    return await store.create_task(
        NewTask(task_id=task_id, session_id=task_id, service="echo", input="{}", new_session=True)
    )


def start(task_id: str, worker: str) -> StartRequest:
    return StartRequest(
        task_id=task_id, execution_id=f"{task_id}-{worker}", worker_id=worker, lease=6.0
    )


@pytest.mark.rule(3)
async def test_nothing_waits_until_the_clock_is_back_where_it_was(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/state.db"
    first = await SQLiteStateStore.open(uri, "clock", clock=lambda: NOW)
    await create(first, "unpublished")
    published = await create(first, "published")
    await first.outbox_done([row.row_id for row in published.publish])
    await create(first, "running")
    assert isinstance(await first.start(start("running", "dead")), Execution)
    await first.aclose()

    store = await SQLiteStateStore.open(uri, "clock", clock=lambda: NOW - HOUR)
    try:
        # A restart on a laptop: it knows its workers of before, and that its queue is empty.
        await store.expire_worker("dead")
        repaired = await store.repair(RepairPolicy(resend_unstarted_after=0.0))
        ids = {row.task_id for row in repaired.publish}
        assert ids == {"unpublished", "published", "running"}
        for task_id in ids:
            assert isinstance(await store.start(start(task_id, "alive")), Execution)
        again = await store.repair(RepairPolicy(resend_unstarted_after=0.0))
        assert again.publish == ()
        assert again.lost_leases == 0
    finally:
        await store.aclose()


@pytest.mark.defect(23)
@pytest.mark.rule(7)
async def test_a_question_that_is_answered_after_ten_minutes(tmp_path: Path) -> None:
    now = [NOW]
    store = await SQLiteStateStore.open("memory://", "clock", clock=lambda: now[0])
    try:
        await create(store, "asks")
        asked = await store.start(start("asks", "first"))
        assert isinstance(asked, Execution)
        park = ParkRequest(key=asked.key, snapshot="so far", consumed_seq=0, next_index=1)
        assert (await store.park(park)).accepted
        for _ in range(600):
            now[0] += 1
            repaired = await store.repair(RepairPolicy(resend_unstarted_after=3.0))
            assert (repaired.publish, repaired.timed_out, repaired.lost_leases) == ((), (), 0)
        record = await store.get_task("asks")
        assert record is not None
        assert (record.state, record.owner) == (TaskState.WAITING, None)
        (row,) = (await store.append_inbound("asks", "the answer")).publish
        assert row.task_id == "asks"
        resumed = await store.start(start("asks", "second"))
        assert isinstance(resumed, Execution)
        assert (resumed.snapshot, resumed.base_index) == ("so far", 1)
        assert [event.event for event in resumed.inbound] == ["the answer"]
    finally:
        await store.aclose()
