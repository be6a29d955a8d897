"""The autoscaler while the broker is away. No node: workers are processes of this machine."""

from __future__ import annotations

import asyncio
import signal
import time

from e2e.operator_process import eventually
from e2e.process_stage import WFS, Client, Stage, stage

AWAY_SECONDS = 60.0
TASKS = 120
AUTOSCALING = {
    "minReplicas": 0,
    "maxReplicas": 6,
    "targetBacklog": 8,
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
}


def test_replicas_hold_while_the_broker_is_away_in_a_burst() -> None:
    """For a minute, and with a window of five seconds; afterwards every task has its result."""
    with stage(AUTOSCALING) as found:
        asyncio.run(burst(found))


async def burst(found: Stage) -> None:
    client = Client(found)
    try:
        tasks = await asyncio.gather(*(client.create(n=n, pause=10) for n in range(TASKS)))
        await asyncio.to_thread(
            eventually, lambda: found.asked() == 6 and found.pods() >= 6, "six are there", 90
        )
        process = found.broker.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.to_thread(hold, found)
        finally:
            process.send_signal(signal.SIGCONT)
        results = await asyncio.gather(*(client.result(*task) for task in tasks))
        assert sorted(results, key=int) == [str(n) for n in range(TASKS)]
        await asyncio.to_thread(eventually, lambda: found.asked() == 0, "none is asked for", 120)
    finally:
        await client.aclose()


def hold(found: Stage) -> None:
    said = ""
    deadline = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < deadline:
        assert found.asked() == 6
        status, reason, _ = found.space.condition("wfs", WFS, "ScalingLimited")
        if status == "True":
            said = reason
        time.sleep(0.2)
    assert said == "MetricUnavailable"
