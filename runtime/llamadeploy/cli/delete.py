"""``llamactl delete``."""

from __future__ import annotations

import sys
from typing import Any

import click

from llamadeploy.cli.completion import complete_deployments
from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import api_server
from llamadeploy.types import TaskState

_UNFINISHED = [state for state in TaskState if not state.terminal]


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask; needed where no terminal is.")
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="What running tasks get to end; default: the server's --drain-seconds.",
)
@click.argument("deployment", shell_complete=complete_deployments)
@click.pass_obj
def delete(profile: Profile, deployment: str, yes: bool, drain: float | None) -> None:
    """Stop DEPLOYMENT and remove it with its sessions, tasks, results and work directory.

    New tasks are refused at once. Running ones get a while to end; then everything unfinished is
    cancelled, and whoever waits for it is told.
    """
    with api_server(profile) as server:
        found = server.deployments.get(deployment)
        if not yes:
            _confirm(found)
        found.delete(drain)
    click.echo(f"Deployment deleted: {deployment}")


def _confirm(deployment: Any) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: add --yes to delete")
    open_tasks = deployment.tasks.statuses(states=_UNFINISHED, limit=1000)
    if open_tasks:
        more = " or more" if len(open_tasks) == 1000 else ""
        click.echo(f"{len(open_tasks)}{more} tasks are unfinished.")
    click.confirm(f"Delete deployment '{deployment.id}' and everything it keeps?", abort=True)
