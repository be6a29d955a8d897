"""`python -m benchmarks.operator`: measure the operator, print the table."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from pathlib import Path

from benchmarks.machine import idle_share
from benchmarks.operator.measures import NotReady, measure
from benchmarks.operator.report import document, markdown, missed
from benchmarks.operator.stage import stage
from e2e.cluster.build import BuildUnavailableError

LIMIT = 900.0


def main() -> int:
    """0 when every target was reached, 1 when one was missed, 2 when it could not be measured."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _interrupt)  # the way out of Ctrl-C: everything is stopped
    idle = idle_share()
    try:
        with stage() as cluster:
            figures = measure(cluster, options.count, options.limit)
    except (BuildUnavailableError, NotReady, AssertionError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; everything is stopped.", file=sys.stderr)
        return 130
    figures.idle = idle
    command = shlex.join(["python", "-m", "benchmarks.operator", *sys.argv[1:]])
    text = markdown(figures, command)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        options.json.write_text(json.dumps(document(figures, command), indent=2) + "\n")
    for sentence in missed(figures):
        print(f"Missed: {sentence}", file=sys.stderr)
    return 1 if missed(figures) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operator",
        description="Let the operator make many Deployments on a real API server (etcd, "
        "kube-apiserver, controllers, scheduler; kwok simulates nodes and pods), restart it, and "
        "measure. Needs Go once, to build these.",
    )
    parser.add_argument("--count", type=int, default=1000, help="Deployments (default: 1000)")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, metavar="SECONDS",
        help=f"give up when they are not all Ready by then (default: {LIMIT:.0f})",
    )  # fmt: skip
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every detail here")
    return parser


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
