"""`python -m benchmarks`: measure the original 0.8.1 and this project, print the table."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.environment import EnvironmentUnavailable
from benchmarks.machine import idle_share
from benchmarks.measures import FULL, MEASURES, ORIGINAL, OURS, QUICK, Figure, bare
from benchmarks.report import document, markdown, missed
from benchmarks.servers import ServerFailed, Service, original, ours

SOURCE = Path(__file__).parent / "source" / "src"
SERVERS = {ORIGINAL: original, OURS: ours}


def main() -> int:
    """0 when every target was reached, 1 when one was missed, 2 when a server failed."""
    options = _parser().parse_args()
    # SIGTERM takes the same way out as Ctrl-C, so that the servers are stopped.
    signal.signal(signal.SIGTERM, _interrupt)
    names = [name for name in SERVERS if name != ORIGINAL or not options.without_original]
    _say("the workflow library alone")
    alone = bare()
    figures: list[Figure] = []
    idle: dict[str, float] = {}
    try:
        for name in names:
            idle[name] = idle_share()
            figures += measure(name, options.only or list(MEASURES), options.quick)
    except (EnvironmentUnavailable, ServerFailed, RuntimeError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the servers are stopped.", file=sys.stderr)
        return 130
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    run = document(command, figures, alone, idle)
    print(markdown(run))
    _write(options, run)
    for sentence in missed(figures):
        print(f"Missed: {sentence}", file=sys.stderr)
    return 1 if missed(figures) else 0


def measure(name: str, wanted: list[str], quick: bool) -> list[Figure]:
    """Start one server, take the measures on it, stop it. Both servers never run together."""
    bounds = (QUICK if quick else FULL)[name]
    # Two replicas of the service under load on ours; the original has no replicas.
    services = {
        "echo": Service("workflow:echo", replicas=2),
        "stream": Service("workflow:stream"),
    }
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as parent:
        folder = Path(parent) / "bench"
        folder.mkdir()
        _say(f"{name}: starting")
        with SERVERS[name](folder, SOURCE, services) as server:
            # `create` always runs: the other measures need the deployment.
            for key, take in MEASURES.items():
                if key == "create" or key in wanted:
                    _say(f"{name}: {key}")
                    taken = take(server, name, bounds)
                    figures += taken if key in wanted else []
    return figures


def _write(options: argparse.Namespace, run: dict[str, Any]) -> None:
    if options.json:
        options.json.write_text(json.dumps(run, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(run) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure llama-deploy 0.8.1 and this project in one run, on loopback.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every detail here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table here")
    parser.add_argument(
        "--only", action="append", choices=list(MEASURES), metavar="NAME",
        help=f"one measure, may be repeated: {', '.join(MEASURES)}",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small counts, about a minute")
    parser.add_argument("--without-original", action="store_true", help="measure this project only")
    return parser


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
