"""``python -m e2e.cluster up``: a Kubernetes of one's own on this machine, and ``down``.

Root on Linux; see ``node``.
"""

from __future__ import annotations

import sys

import click

from e2e.cluster.build import BuildUnavailableError
from e2e.cluster.kept import Kept, down, up

NAME = click.option("--name", default="default", show_default=True, help="Of the cluster.")


@click.group(help=__doc__)
def main() -> None: ...


@main.command("up")
@NAME
def start(name: str) -> None:
    """Start it and print the path of its kubeconfig."""
    try:
        found = Kept.find(name) if Kept.file(name).exists() else up(name)
    except (AssertionError, LookupError, BuildUnavailableError) as error:
        sys.exit(str(error))
    click.echo(found.kubeconfig)


@main.command("down")
@NAME
def stop(name: str) -> None:
    """End it and remove all that it had."""
    try:
        down(name)
    except LookupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
