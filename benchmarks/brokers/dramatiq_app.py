"""The peer: Dramatiq on RabbitMQ, results on Redis. Runs in an environment of its own.

`python -m dramatiq benchmarks.brokers.dramatiq_app` is the worker, `python -m
benchmarks.brokers.dramatiq_app COUNT IN_FLIGHT` the load client, which prints one JSON object.
The environment names the servers: `BENCHMARK_RABBITMQ`, `BENCHMARK_REDIS`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import AsyncIO
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

SOURCE = Path(__file__).parents[1] / "source" / "src" / "workflow.py"
RESULT_MS = 60_000


def _workflow() -> Any:
    spec = importlib.util.spec_from_file_location("workflow", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.echo


workflow = _workflow()
# Confirms are what makes it lose nothing.
broker = RabbitmqBroker(url=os.environ["BENCHMARK_RABBITMQ"], confirm_delivery=True)
broker.add_middleware(AsyncIO())
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCHMARK_REDIS"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
async def echo(message: str) -> str:
    """The workflow that everybody runs, on the worker's event loop."""
    result: str = await workflow.run(message=message)
    return result


class Load:
    """Threads that each send a message and wait for its result, until `count` are done."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.seconds: list[float] = []
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def run(self, in_flight: int) -> float:
        """Seconds that it took."""
        threads = [threading.Thread(target=self._work) for _ in range(in_flight)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def _work(self) -> None:
        while self._take():
            started = time.perf_counter()
            try:
                answer = echo.send("x").get_result(block=True, timeout=RESULT_MS)
            except Exception as error:  # noqa: BLE001 - counted, and shown
                answer = repr(error)
            if answer == "echo: x":
                self.seconds.append(time.perf_counter() - started)
            else:
                self.wrong.append(str(answer))

    def _take(self) -> bool:
        with self._lock:
            self.left -= 1
            return self.left >= 0


def main() -> None:
    count, in_flight = int(sys.argv[1]), int(sys.argv[2])
    used = time.process_time()
    load = Load(count)
    took = load.run(in_flight)
    cuts = statistics.quantiles(load.seconds, n=100) if len(load.seconds) > 1 else [0.0] * 99
    print(json.dumps({
        "count": len(load.seconds),
        "seconds": took,
        "per_second": len(load.seconds) / took,
        "p50_ms": 1000 * cuts[49],
        "p95_ms": 1000 * cuts[94],
        "p99_ms": 1000 * cuts[98],
        "wrong": len(load.wrong),
        "first_wrong": load.wrong[:1],
        "client_cpu": (time.process_time() - used) / took,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
