"""What the workflow library does alone: the same workflows, one process, no server.

`python -m benchmarks.bare` prints `{"runs_per_second": ..., "cpu_us_per_run": ...,
"events_per_second": ...}`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "source" / "src" / "workflow.py"
RUNS = 1000
EVENTS = 20_000


def main() -> None:
    spec = importlib.util.spec_from_file_location("workflow", SOURCE)
    if spec is None or spec.loader is None:
        raise ImportError(f"no workflow at {SOURCE}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(json.dumps(asyncio.run(measure(module))))


async def measure(module: Any) -> dict[str, float]:
    """Rates of `await Workflow.run()` one after the other, and of events read from one run."""
    for _ in range(50):
        await module.echo.run(message="x")
    started, used = time.perf_counter(), time.process_time()
    for _ in range(RUNS):
        await module.echo.run(message="x")
    runs = RUNS / (time.perf_counter() - started)
    used = time.process_time() - used

    started = time.perf_counter()
    handler = module.stream.run(n=EVENTS)
    seen = 0
    async for event in handler.stream_events():
        event.model_dump_json()
        seen += 1
    await handler
    return {
        "runs_per_second": runs,
        "cpu_us_per_run": 1e6 * used / RUNS,
        "events_per_second": seen / (time.perf_counter() - started),
    }


if __name__ == "__main__":
    main()
