"""SQLite on a disk that gets full while tasks come in, and has room again later."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos.clients import Clients, until
from chaos.cluster import Cluster, running
from chaos.feats import Feat
from chaos.rounds import clients_of
from chaos.servers import Pair
from llamadeploy.testing import free_port

SMALL = 64 * 2**20
"""Bytes of the disk."""

TOKEN = "chaos"

PADDING = "x" * 20_000
"""Makes tasks that fill it."""


class Disk:
    """A folder of a small file system of its own, or (without root) a limit on file sizes."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder = folder
        self.mounted = mounted

    def fill(self, pid: int) -> None:
        """From now on nothing more fits."""
        if not self.mounted:
            largest = max(path.stat().st_size for path in self.folder.iterdir())
            _limit_files(pid, largest)
            return
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb", 0) as file:
            while True:
                file.write(b"\0" * 4096)

    def make_room(self, pid: int) -> None:
        """There is space again."""
        if self.mounted:
            (self.folder / "filler").unlink()
        else:
            _limit_files(pid, resource.RLIM_INFINITY)


def _limit_files(pid: int, size: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A tmpfs where we may mount one."""
    folder.mkdir()
    mounted = os.geteuid() == 0 and _run(
        "mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", folder
    )
    try:
        yield Disk(folder, mounted)
    finally:
        if mounted:
            _run("umount", "-l", folder)


def _run(*command: Any) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


async def full_disk(tasks: int = 200, seconds: float = 4.0) -> Feat:
    """Tasks are refused with 503 while the disk is full; what was accepted ends after it."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(Path(folder) / "disk"))
        queue = free_port()
        pair = Pair(
            "simple+sqlite", "simple", f"http://x:{TOKEN}@127.0.0.1:{queue}",
            f"sqlite:///{disk.folder}/state.db", None, None,
        )  # fmt: skip
        cluster = Cluster(
            pair,
            Path(folder),
            control_planes=1,
            orchestrators=0,
            queue_port=queue,
            api_token=TOKEN,
        )
        async with running(cluster), clients_of(cluster) as clients:
            return await _fill_under_load(cluster, clients, disk, tasks, seconds)


async def _fill_under_load(
    cluster: Cluster, clients: Clients, disk: Disk, tasks: int, seconds: float
) -> Feat:
    book, pid = clients.book, cluster.control_planes[0].pid
    limit = asyncio.Semaphore(32)

    async def client(number: int) -> None:
        book.expected[number] = f"create {number}"
        async with limit:
            await clients.create(number, "create", padding=PADDING)
            await clients.result(number)

    work = [asyncio.create_task(client(number)) for number in range(tasks)]
    await until(lambda: book.done >= 0.2 * tasks, "a fifth is done")
    disk.fill(pid)
    await until(lambda: book.put_off > 0, "a task is refused")
    done = book.done
    await asyncio.sleep(seconds)
    disk.make_room(pid)
    began = time.monotonic()
    await asyncio.wait(work, timeout=60)
    healed = time.monotonic() - began
    for each in work:
        each.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    lost = tasks - book.done
    wrong = book.wrong() + book.dirty + await clients.check_again(sorted(book.got))
    kind = "a full file system" if disk.mounted else "a limit on file sizes"
    return Feat(
        f"SQLite's disk is full for {seconds:.0f} s ({kind})",
        cluster.pair.name,
        f"{done} of {tasks} done before, {book.put_off} calls told to come again, then all done "
        f"{healed:.1f} s after there was room; {lost} lost",
        not (lost or wrong or cluster.ended_by_themselves),
        (*wrong[:5], *cluster.ended_by_themselves),
    )
