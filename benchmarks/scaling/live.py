"""``python -m benchmarks.scaling.live``: the operator's autoscaler, measured on real processes.

One run, from zero replicas: the first result, a burst, and zero again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path

from benchmarks.machine import idle_share, machine
from benchmarks.scaling.baselines import baselines
from e2e.process_stage import Client, Stage, stage, wait

MOST = 8
TARGET = 5
TASKS = 400
"""More than eight replicas' targets for as long as it takes to have eight."""
PAUSE = 2.0
"""Seconds of a task's run in the burst."""
AUTOSCALING = {"minReplicas": 0, "maxReplicas": MOST, "targetBacklog": TARGET}


async def first_result(found: Stage, client: Client) -> dict[str, float]:
    """From zero: seconds from the task's creation until a replica is asked for, a worker's pod is
    there, and the result."""
    started = time.monotonic()
    task = await client.create(n=1)
    asked = await asyncio.to_thread(wait, lambda: found.asked() >= 1, "a replica is asked for")
    pod = await asyncio.to_thread(wait, lambda: found.pods() >= 1, "its pod is there")
    await client.result(*task)
    ended = time.monotonic()
    return {"asked": asked - started, "pod": pod - started, "result": ended - started}


async def burst(found: Stage, client: Client) -> dict[str, float]:
    """Seconds from the first creation until as many replicas as are right are asked for, all of
    them are ready, and every task has its result."""
    started, clock = time.monotonic(), time.time() - time.monotonic()
    looks = [
        asyncio.create_task(asyncio.to_thread(wait, check, what))
        for check, what in (
            (lambda: found.asked() >= MOST, "all are asked for"),
            (lambda: found.ready() >= MOST, "all are ready"),
        )
    ]
    tasks = await asyncio.gather(*(client.create(n=n, pause=PAUSE) for n in range(TASKS)))
    created = time.monotonic()
    results = await asyncio.gather(*(client.result(*task) for task in tasks))
    # Not when this client heard of it: it has one core to share with all that is measured.
    ended = max(await asyncio.gather(*(client.finished_at(id) for id, _ in tasks))) - clock
    assert sorted(results, key=int) == [str(n) for n in range(TASKS)]
    asked, ready = await asyncio.gather(*looks)
    return {
        "created": created - started, "asked": asked - started, "ready": ready - started,
        "drained": ended - started, "ended": ended,
    }  # fmt: skip


async def to_zero(found: Stage, since: float) -> dict[str, float]:
    """Seconds from the last result until none is asked for, and no pod is there."""
    asked = await asyncio.to_thread(wait, lambda: found.asked() == 0, "none is asked for", 240)
    gone = await asyncio.to_thread(wait, lambda: found.pods() == 0, "no pod is there", 120)
    return {"asked": asked - since, "gone": gone - since}


async def measure(found: Stage) -> dict[str, dict[str, float]]:
    """All of it."""
    client = Client(found)
    try:
        await asyncio.to_thread(wait, lambda: found.asked() == 0, "it starts from zero", 240)
        await asyncio.to_thread(wait, lambda: found.pods() == 0, "no pod is there", 120)
        first = await first_result(found, client)
        print("zero to first result:", first, flush=True)
        crowd = await burst(found, client)
        idle = await to_zero(found, crowd.pop("ended"))
        print("burst:", crowd, flush=True)
        print("idle to zero:", idle, flush=True)
    finally:
        await client.aclose()
    return {"first": first, "burst": crowd, "idle": idle}


def markdown(figures: dict[str, dict[str, float]], others: dict[str, dict[str, str]]) -> str:
    """The table of docs/benchmarks.md."""
    first, crowd, idle = figures["first"], figures["burst"], figures["idle"]
    hpa, keda = others["HPA"], others["KEDA"]
    rows = [
        ("zero", "zero, until a replica is asked for", f"{first['asked']:.2f} s"),
        ("first", "zero to first result", f"{first['result']:.2f} s"),
        ("asked", f"burst of {TASKS}, until {MOST} replicas are asked for", _text(crowd["asked"])),
        ("drained", "the same, until the last result", _text(crowd["drained"])),
        ("idle", "idle, until no replica is asked for", _text(idle["asked"])),
    ]
    lines = ["| measure | operator | HPA's rules | KEDA's defaults |", "|---|---:|---:|---:|"]
    return "\n".join(
        [*lines, *(f"| {what} | {ours} | {hpa[key]} | {keda[key]} |" for key, what, ours in rows)]
    )


def _text(seconds: float) -> str:
    return f"{seconds:.1f} s"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling.live", description=__doc__)
    parser.add_argument("--json", type=Path, help="keep the figures here")
    given = parser.parse_args()
    idle = idle_share()
    with stage(AUTOSCALING) as found:
        figures = asyncio.run(measure(found))
    start = figures["first"]["result"] - figures["first"]["asked"]
    print(f"\n{machine()}, {1 - idle:.0%} busy with something else before\n")
    print(markdown(figures, baselines(TASKS, PAUSE, MOST, start)))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
