"""``llamactl sessions``."""

from __future__ import annotations

import click

from llamadeploy.cli.options import deployment_option
from llamadeploy.cli.output import Columns, output_option, print_records
from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import api_server


@click.group()
def sessions() -> None:
    """Manage the sessions of a deployment."""


@sessions.command()
@deployment_option
@click.pass_obj
def create(profile: Profile, deployment: str) -> None:
    """Create a session and print it."""
    with api_server(profile) as server:
        click.echo(server.deployments.get(deployment).sessions.create())


@sessions.command("list")
@deployment_option
@output_option()
@click.pass_obj
def list_(profile: Profile, deployment: str, output: str) -> None:
    """List sessions with the number of their tasks."""
    with api_server(profile) as server:
        found = server.deployments.get(deployment).sessions.list()
    records = [session.model_dump(mode="json") for session in found]
    columns: Columns = {
        "SESSION": "session_id",
        "TASKS": lambda record: str(len(record["task_ids"])),
    }
    print_records(records, columns, output, "There are no sessions.")


@sessions.command()
@deployment_option
@click.argument("session_id", nargs=-1, required=True)
@click.pass_obj
def delete(profile: Profile, deployment: str, session_id: tuple[str, ...]) -> None:
    """Forget each SESSION_ID with its tasks; what is unfinished is cancelled."""
    with api_server(profile) as server:
        collection = server.deployments.get(deployment).sessions
        for each in session_id:
            collection.delete(each)
            click.echo(f"Deleted: {each}")
