"""Files of bounded size, tails over several services, followers that miss nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llamadeploy.api_server.backends.local.worker_logs import WorkerLogs
from llamadeploy.control_plane.worker_control import LogLine


async def texts(logs: WorkerLogs, service: str | None = None, tail: int = 100) -> list[str]:
    return [
        line.text async for batch in logs.read(service, tail=tail, follow=False) for line in batch
    ]


async def test_the_tail_of_one_service_and_of_all(tmp_path: Path) -> None:
    logs = WorkerLogs(tmp_path / "logs")
    for number in range(6):
        logs.add("even" if number % 2 == 0 else "odd", "r-0", f"line {number}")
    assert await texts(logs, "odd") == ["line 1", "line 3", "line 5"]
    assert await texts(logs) == [f"line {n}" for n in range(6)]
    assert await texts(logs, tail=2) == ["line 4", "line 5"]
    assert await texts(logs, tail=0) == []
    assert await texts(logs, "never") == []
    await logs.aclose()


async def test_lines_are_there_after_a_restart_and_belong_to_the_user_alone(tmp_path: Path) -> None:
    first = WorkerLogs(tmp_path / "logs")
    first.add("a/b ..", "r-0", "kept: ü \ud7ff")
    await first.aclose()
    first.add("a/b ..", "r-0", "too late")
    (file,) = (tmp_path / "logs").iterdir()
    assert file.parent == tmp_path / "logs"
    assert file.stat().st_mode & 0o777 == 0o600
    second = WorkerLogs(tmp_path / "logs")
    (line,) = [line async for batch in second.read(None, tail=9, follow=False) for line in batch]
    assert (line.service, line.replica, line.text) == ("a/b ..", "r-0", "kept: ü \ud7ff")


async def test_files_stay_within_their_bound_and_keep_the_newest_lines(tmp_path: Path) -> None:
    logs = WorkerLogs(tmp_path / "logs", file_bytes=20_000)
    for number in range(200):
        logs.add("s", "r-0", f"{number:04} " + "x" * 500)
        if number % 10 == 9:
            await texts(logs, tail=0)  # writes what waits
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "logs").iterdir()}
    assert set(sizes) == {"s.log", "s.log.1"}
    assert max(sizes.values()) <= 20_000
    numbers = [int(text[:4]) for text in await texts(logs, "s", 1000)]
    assert numbers == list(range(numbers[0], 200))
    assert len(numbers) > 20
    await logs.aclose()


async def test_what_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    logs = WorkerLogs(tmp_path / "logs")
    logs.add("s", "r-0", "whole")
    await logs.aclose()
    with (tmp_path / "logs" / "s.log").open("ab") as file:
        file.write(b'[1.0,"r-0","ha')
    assert await texts(WorkerLogs(tmp_path / "logs"), "s") == ["whole"]


@pytest.mark.parametrize("service", [None, "s"])
async def test_a_follower_gets_each_line_once(tmp_path: Path, service: str | None) -> None:
    logs = WorkerLogs(tmp_path / "logs")
    got: list[LogLine] = []

    async def follow() -> None:
        async for batch in logs.read(service, tail=1000, follow=True):
            got.extend(batch)

    async def write() -> None:
        for number in range(300):
            logs.add("s", "r-0", str(number))
            if number % 7 == 0:
                await asyncio.sleep(0.001)

    writing = asyncio.create_task(write())
    followers = [asyncio.create_task(follow()) for _ in range(3)]
    await writing
    async with asyncio.timeout(10):
        while len(got) < 900:
            await asyncio.sleep(0.005)
    logs.add("other", "o-0", "other")
    await logs.aclose()
    async with asyncio.timeout(5):
        await asyncio.gather(*followers)  # they end with the deployment
    expected = sorted([str(n) for n in range(300)] * 3 + ["other"] * (3 if service is None else 0))
    assert sorted(line.text for line in got) == expected


async def test_a_disk_that_fails_costs_lines_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    logs = WorkerLogs(tmp_path / "logs")
    logs.add("s", "r-0", "lost")
    await logs.aclose()
    assert "1 lines of workers were not kept" in caplog.text
