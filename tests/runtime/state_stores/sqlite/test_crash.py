"""What was accepted is in the file after ``kill -9``."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

from llamadeploy.state_stores.records import RepairPolicy
from llamadeploy.state_stores.sqlite.store import SQLiteStateStore

WRITER = Path(__file__).with_name("writer.py")


def run_and_kill(path: Path, name: str, lines: int) -> list[tuple[str, str]]:
    """Let a process write until it has told ``lines`` lines; returns all that it told."""
    process = subprocess.Popen(
        [sys.executable, str(WRITER), str(path), name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    told += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    return [(word, task_id) for word, _, task_id in (line.strip().partition(" ") for line in told)]


async def test_killed_writers_lose_nothing(path: Path) -> None:
    told: list[tuple[str, str]] = []
    for number, lines in enumerate((10, 333, 1000, 51)):
        told += run_and_kill(path, str(number), lines)
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    assert len(told) >= 1394

    store = await SQLiteStateStore.open(f"sqlite:///{path}", "ns")
    for word, task_id in told:
        record = await store.get_task(task_id)
        assert record is not None, task_id
        page = await store.read_log(task_id, 0, 100)
        if word == "finished":
            assert (record.state, record.result, record.event_count) == ("succeeded", task_id, 6)
            assert [event.index for event in page.events] == list(range(6))
        elif word == "events":
            assert [event.index for event in page.events][:5] == list(range(5))

    for task in await store.list_tasks():
        record = await store.get_task(task.task_id)
        assert record is not None
        page = await store.read_log(task.task_id, 0, 100)
        assert (len(page.events) == 6) == record.state.terminal, "result and tail are one"
    counts = await store.counts()
    unfinished = counts["queued"] + counts["running"]
    assert unfinished > 0, "the kills came in the middle of something"
    await store.expire_worker("w")
    repaired = await store.repair(RepairPolicy(resend_unstarted_after=0))
    assert repaired.lost_leases == counts["running"]
    assert (await store.counts())["queued"] == unfinished
    await store.aclose()
