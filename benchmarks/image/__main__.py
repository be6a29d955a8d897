"""`python -m benchmarks.image`: memory and start time of each component, and an image's size."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.image.installation import ImageError, Installation, of_image
from benchmarks.image.measures import Figure, measure
from benchmarks.machine import idle_share, machine

MEMORY = 75.0
"""MiB that a control plane, an orchestrator or a worker may hold when idle."""
START = 2.0
"""Seconds from start to ready."""
QUIET = 0.9


def main() -> int:
    """0 when every target was reached, 1 when one was missed, 2 when it could not be measured."""
    options = _parser().parse_args()
    quiet = idle_share()
    try:
        if options.image:
            with of_image(options.image, options.engine) as installation:
                figures = _measured(installation, options)
                parts = installation.parts
        else:
            figures, parts = _measured(Installation(), options), {}
    except (ImageError, AssertionError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "benchmarks.image", *sys.argv[1:]])
    text = markdown(figures, parts, command, quiet)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        found = {"command": command, "machine": machine(), "idle": quiet, "parts": parts}
        found["figures"] = [each.asdict() for each in figures]
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if any(missed(each) for each in figures) else 0


def missed(figure: Figure) -> bool:
    """Whether a target of its component is missed; the operator has its own, with 1,000 to do."""
    return figure.component != "operator" and (figure.memory > MEMORY or figure.start > START)


def markdown(figures: list[Figure], parts: dict[str, float], command: str, quiet: float) -> str:
    """The tables."""
    here = machine()
    lines = [
        f"Measured on {time.strftime('%Y-%m-%d')} with `{command}` on {here['cores']} cores of "
        f"{here['cpu']}, {here['system']}.",
        "",
    ]
    if parts:
        lines += ["| of the image | MiB, uncompressed |", "|---|---:|"]
        lines += [f"| {name} | {size:,.0f} |" for name, size in parts.items()]
        lines.append("")
    lines += [
        "| component | queue and store | resident, idle | start to ready | CPU until ready | |",
        "|---|---|---:|---:|---:|---|",
    ]
    for each in figures:
        word = "**missed**" if missed(each) else ""
        lines.append(
            f"| {each.component} | {each.backend} | {each.memory:.1f} MiB | {each.start:.2f} s "
            f"| {each.cpu:.2f} s | {word} |"
        )
    if quiet < QUIET:
        lines += ["", f"**Not a quiet machine**: {1 - quiet:.0%} of it was busy before the run."]
    return "\n".join(lines)


def _measured(installation: Installation, options: Any) -> list[Figure]:
    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    figures = []
    for each in measure(installation, options.starts, options.idle, report):
        report(f"  {each.component}: {each.memory:.1f} MiB, ready after {each.start:.2f} s")
        figures.append(each)
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.image",
        description="Start each component, three times, with an embedded queue, on Redis, and on "
        "RabbitMQ with PostgreSQL (servers of the run's own), and read its memory when it has been "
        "idle for a while. Without --image it measures this environment's Python.",
    )
    parser.add_argument("--image", metavar="NAME", help="measure the programs of this image (root)")
    parser.add_argument(
        "--engine", choices=("buildah", "podman", "docker"), default="buildah",
        help="what has the image (default: buildah)",
    )  # fmt: skip
    parser.add_argument("--starts", type=int, default=3, help="of each component (default: 3)")
    parser.add_argument(
        "--idle", type=float, default=30.0, metavar="SECONDS", help="before memory is read (30)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every detail here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
