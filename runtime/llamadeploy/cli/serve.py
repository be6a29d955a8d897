"""``llamactl serve``: the API server with the local backend, in the foreground."""

from __future__ import annotations

import click

from llamadeploy.api_server.command import api_server

HELP = """Run an API server on this machine and deploy FILE.

    FILE is a deployment file, or the very manifest that a cluster takes. Each replica of a service
    is a process of its own; everything accepted is kept in the data directory, so that a restart
    goes on where the last run ended. Ctrl-C drains and stops.

    \b
    Examples:
      llamactl serve examples/quickstart/deployment.yaml
      llamactl serve --port 0 --data-dir ./data deployment.yaml
"""

serve = click.Command(
    "serve",
    callback=api_server.callback,
    params=api_server.params,
    help=HELP,
    short_help="Run an API server on this machine and deploy FILE.",
)
"""The command ``llamadeploy api-server`` under the name that users of 0.8.1 know."""
