"""`python -m benchmarks.brokers`: measure on durable brokers, print the tables."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.brokers import backends
from benchmarks.brokers.measures import (
    QUICK,
    Bounds,
    Figures,
    measure_dramatiq,
    measure_original,
    measure_ours,
)
from benchmarks.brokers.report import ORIGINAL, OURS, document, markdown, missed
from benchmarks.brokers.stages import stages
from benchmarks.environment import EnvironmentUnavailable
from benchmarks.machine import idle_share
from benchmarks.servers import ServerFailed
from llamadeploy.exceptions import LlamaDeployError

PARTS = ("redis", "redis-always", "rabbitmq", "dramatiq", "original")
STAGE_TASKS = 400
FAILURES = (
    EnvironmentUnavailable, ServerFailed, LlamaDeployError, RuntimeError,
    subprocess.TimeoutExpired,
)  # fmt: skip


def main() -> int:
    """0: every target was reached, 1: one was missed, 2: something could not be measured."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _interrupt)  # the way out of Ctrl-C: the servers are stopped
    run = Run(options)
    try:
        run.take()
    except KeyboardInterrupt:
        print("Interrupted; the servers are stopped.", file=sys.stderr)
        return 130
    command = shlex.join(["python", "-m", "benchmarks.brokers", *sys.argv[1:]])
    text = markdown(run.figures, run.stages, run.idle, command)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        found = document(run.figures, run.stages)
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    for sentence in (*run.errors, *missed(run.figures)):
        print(sentence, file=sys.stderr)
    return 2 if run.errors else 1 if missed(run.figures) else 0


class Run:
    """What is measured, one after the other: no two systems ever run together."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.figures: list[Figures] = []
        self.stages: dict[str, dict[str, float]] = {}
        self.idle: dict[str, float] = {}
        self.errors: list[str] = []
        """What could not be measured; the rest is."""
        self._wanted = set(options.only or PARTS)
        self._bounds = QUICK if options.quick else Bounds()
        self._replicas = options.replicas

    def take(self) -> None:
        """Take all that is wanted."""
        with ExitStack() as open_pairs:
            if "redis-always" in self._wanted:
                with backends.redis("always") as always:
                    self._ours(always)
            needed = self._wanted & {"redis", "original", "dramatiq"}
            redis = open_pairs.enter_context(backends.redis()) if needed else None
            if redis is not None and "redis" in self._wanted:
                self._ours(redis)
            if redis is not None and "original" in self._wanted:
                self._original(redis)
            if self._wanted & {"rabbitmq", "original", "dramatiq"}:
                rabbitmq = open_pairs.enter_context(backends.rabbitmq_and_postgresql())
                if "rabbitmq" in self._wanted:
                    self._ours(rabbitmq)
                if "original" in self._wanted:
                    self._original(rabbitmq)
                if redis is not None and "dramatiq" in self._wanted:
                    self._dramatiq(rabbitmq, redis)

    def _ours(self, pair: backends.Pair) -> None:
        with self._measuring(f"{OURS} on {pair.name}"):
            self.figures.append(measure_ours(pair, self._bounds, self._replicas))
            self.stages[pair.name] = stages(pair, STAGE_TASKS)

    def _original(self, pair: backends.Pair) -> None:
        with self._measuring(f"{ORIGINAL} on {pair.name}"):
            self.figures.append(measure_original(pair, self._bounds))

    def _dramatiq(self, pair: backends.Pair, results: backends.Pair) -> None:
        with self._measuring(f"Dramatiq on {pair.name}"):
            self.figures.append(measure_dramatiq(pair, results, self._bounds))

    @contextmanager
    def _measuring(self, what: str) -> Iterator[None]:
        print(f"... {what}", file=sys.stderr, flush=True)
        self.idle[what] = idle_share()
        try:
            yield
        except FAILURES as error:
            self.errors.append(f"Error: {what}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.brokers",
        description="Measure this project, llama-deploy 0.8.1 and Dramatiq on Redis, RabbitMQ and "
        "PostgreSQL servers of the run's own; about five minutes.",
    )
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="NAME",
        help=f"one part, may be repeated: {', '.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small counts, about two minutes")
    parser.add_argument("--replicas", type=int, default=2, help="workers of our service")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every detail here")
    return parser


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
