"""``llamactl sessions``."""

from __future__ import annotations

import click

from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import api_server


@click.group()
def sessions() -> None:
    """Manage the sessions of a deployment."""


@sessions.command()
@click.option("-d", "--deployment", required=True, help="Name of the deployment.")
@click.pass_obj
def create(profile: Profile, deployment: str) -> None:
    """Create a session and print it."""
    with api_server(profile) as server:
        click.echo(server.deployments.get(deployment).sessions.create())
