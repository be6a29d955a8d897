"""`python -m benchmarks.brokers`: measure on durable brokers, print the tables."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
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
from benchmarks.brokers.report import document, markdown, missed
from benchmarks.brokers.stages import stages
from benchmarks.environment import EnvironmentUnavailable
from benchmarks.machine import idle_share
from benchmarks.servers import ServerFailed

PARTS = ("redis", "redis-always", "rabbitmq", "dramatiq", "original")
STAGE_TASKS = 400


def main() -> int:
    """0 when every target was reached, 1 when one was missed, 2 when a server failed."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _interrupt)  # the way out of Ctrl-C: the servers are stopped
    run = Run(options)
    try:
        run.take()
    except (EnvironmentUnavailable, ServerFailed, RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
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
    for sentence in missed(run.figures):
        print(f"Missed: {sentence}", file=sys.stderr)
    return 1 if missed(run.figures) else 0


class Run:
    """What is measured, one after the other: no two systems ever run together."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.figures: list[Figures] = []
        self.stages: dict[str, dict[str, float]] = {}
        self.idle: dict[str, float] = {}
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
                    _say("Dramatiq")
                    self.idle[f"Dramatiq on {rabbitmq.name}"] = idle_share()
                    self.figures.append(measure_dramatiq(rabbitmq, redis, self._bounds))

    def _ours(self, pair: backends.Pair) -> None:
        _say(f"this project on {pair.name}")
        self.idle[f"this project on {pair.name}"] = idle_share()
        self.figures.append(measure_ours(pair, self._bounds, self._replicas))
        self.stages[pair.name] = stages(pair, STAGE_TASKS)

    def _original(self, pair: backends.Pair) -> None:
        _say(f"llama-deploy 0.8.1 on {pair.name}")
        self.figures.append(measure_original(pair, self._bounds))


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


def _say(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
