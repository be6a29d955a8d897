"""``llamactl services``."""

from __future__ import annotations

from typing import Any

import click

from llamadeploy.cli.completion import complete_services
from llamadeploy.cli.options import deployment_option
from llamadeploy.cli.output import output_option, print_records
from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import api_server


def _ready(record: Any) -> str:
    if record["replicas"] is None:
        return "-"
    return f"{record['ready_replicas']}/{record['replicas']}"


COLUMNS: dict[str, Any] = {
    "SERVICE": lambda record: record["service_name"] + (" *" if record["default"] else ""),
    "STATE": "state",
    "READY": _ready,
    "RESTARTS": "restarts",
    "QUEUED": "queued",
    "RUNNING": "running",
    "WAITING": "waiting",
    "LAST ERROR": "last_error",
}

service_argument = click.argument("service", shell_complete=complete_services)


@click.group()
def services() -> None:
    """Look at the services of a deployment; stop, restart or scale one of them.

    The others are not touched. What was changed holds until the next reload of the deployment.
    """


@services.command("list")
@deployment_option
@output_option()
@click.pass_obj
def list_(profile: Profile, deployment: str, output: str) -> None:
    """List services with their workers and unfinished tasks; * marks the default one."""
    with api_server(profile) as server:
        found = server.deployments.get(deployment).services.list()
    records = [service.model_dump(mode="json") for service in found]
    print_records(records, COLUMNS, output, "The deployment has no services.")


@services.command()
@deployment_option
@service_argument
@click.pass_obj
def stop(profile: Profile, deployment: str, service: str) -> None:
    """Drain and end the workers of SERVICE; its tasks queue until it is restarted."""
    with api_server(profile) as server:
        server.deployments.get(deployment).services.stop(service)
    click.echo(f"Stopped: {service}")


@services.command()
@deployment_option
@service_argument
@click.pass_obj
def restart(profile: Profile, deployment: str, service: str) -> None:
    """Replace the workers of SERVICE, or start it if it was stopped.

    The new workers are ready before the old ones drain.
    """
    with api_server(profile) as server:
        server.deployments.get(deployment).services.restart(service)
    click.echo(f"Restarted: {service}")


@services.command()
@deployment_option
@service_argument
@click.argument("replicas", type=click.IntRange(min=0))
@click.pass_obj
def scale(profile: Profile, deployment: str, service: str, replicas: int) -> None:
    """Have REPLICAS workers of SERVICE; returns when they are ready."""
    with api_server(profile) as server:
        server.deployments.get(deployment).services.scale(service, replicas)
    click.echo(f"Scaled: {service} to {replicas}")
