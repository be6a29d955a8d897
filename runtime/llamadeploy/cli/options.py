"""Options that several commands have, with the completion of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from llamadeploy.cli.completion import complete_deployments, complete_services

deployment_option = click.option(
    "-d",
    "--deployment",
    required=True,
    shell_complete=complete_deployments,
    help="Name of the deployment.",
)


def service_option(help: str) -> Callable[[Any], Any]:
    """``-s/--service``."""
    return click.option("-s", "--service", shell_complete=complete_services, help=help)
