"""``llamactl run``."""

from __future__ import annotations

import json

import click

from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import api_server
from llamadeploy.types import TaskDefinition


@click.command()
@click.option("-d", "--deployment", required=True, help="Name of the deployment.")
@click.option(
    "-a",
    "--arg",
    multiple=True,
    type=(str, str),
    metavar="KEY VALUE",
    help="An argument for the workflow, as text; may be repeated: -a name Ada -a age 30.",
)
@click.option("-s", "--service", help="Service to run; default: the deployment's.")
@click.option("-i", "--session-id", help="Session to run it in; default: one of its own.")
@click.pass_obj
def run(
    profile: Profile,
    deployment: str,
    arg: tuple[tuple[str, str], ...],
    service: str | None,
    session_id: str | None,
) -> None:
    """Run a task and print its result."""
    task = TaskDefinition(input=json.dumps(dict(arg)), service_id=service, session_id=session_id)
    with api_server(profile) as server:
        click.echo(server.deployments.get(deployment).tasks.run(task))
