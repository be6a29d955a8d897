"""The processes of one deployment under chaos: :mod:`llamadeploy.testing`, supervised."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from chaos.servers import Pair, in_control
from llamadeploy import testing
from llamadeploy.testing import Process

SOURCE = Path(__file__).parent / "source"
DEPLOYMENT = "chaos"
RESTART_PAUSE = 0.5

TWO_WORKERS: Mapping[str, Mapping[str, Any]] = {"work": {"replicas": 2}}


class Cluster(testing.Cluster):
    """Control planes, orchestrators and workers on one pair; the services are those of ``source``.

    Attributes:
        ledger: where runs note what they did.
        supervised: whether processes that ended are started again.
        ended_by_themselves: the names of those.
    """

    def __init__(
        self, pair: Pair, folder: Path,
        services: Mapping[str, Mapping[str, Any]] = TWO_WORKERS, *,
        control_planes: int = 2, orchestrators: int = 2, queue_url: str = "", store_uri: str = "",
        **settings: Any,
    ) -> None:  # fmt: skip
        self.pair = pair
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.supervised = True
        self.ended_by_themselves: list[str] = []
        super().__init__(
            folder,
            SOURCE,
            queue_type=pair.queue_type,
            queue_url=queue_url or pair.queue_url,
            queue_options=pair.queue_options,
            state_store_uri=store_uri or pair.store_uri,
            control_planes=control_planes,
            orchestrators=orchestrators,
            services=services,
            deployment=DEPLOYMENT,
            namespace=f"chaos.{secrets.token_hex(4)}",
            env={"LEDGER": str(self.ledger)},
            **settings,
        )

    def runs(self) -> list[tuple[str, int, str, int]]:
        """What the workflows noted: what, the task's number, the run, the process."""
        lines = [line.split() for line in self.ledger.read_text().split("\n") if line]
        return [(what, int(number), run, int(pid)) for what, number, run, pid in lines]

    def in_work(self, pid: int) -> set[int]:
        """Tasks that the process has begun and neither ended nor put away."""
        runs = [(what, number) for what, number, _, by in self.runs() if by == pid]
        return {n for what, n in runs if what == "begin"} - {
            n for what, n in runs if what != "begin"
        }

    async def all_ready(self) -> float:
        """When every process said so; on the monotonic clock. Raises AssertionError."""
        for process in self.processes:
            await process.ready()
        return time.monotonic()

    async def supervise(self) -> None:
        """Start again what ended by itself, as Kubernetes does; until cancelled."""
        while True:
            fallen = [each for each in self.processes if not each.alive]
            if fallen and self.supervised:
                self.ended_by_themselves += [each.name for each in fallen]
                await asyncio.sleep(RESTART_PAUSE)
                for each in fallen:
                    each.start()
            await asyncio.sleep(0.1)


def memory(process: Process) -> float:
    """Its resident set in MiB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[Cluster]:
    """The cluster, started, supervised, and gone at the end."""
    try:
        cluster.start()
        await cluster.all_ready()
        supervisor = asyncio.create_task(cluster.supervise())
        try:
            yield cluster
        finally:
            supervisor.cancel()
    finally:
        await in_control(cluster.close)
