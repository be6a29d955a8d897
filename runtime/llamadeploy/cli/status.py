"""``llamactl status``."""

from __future__ import annotations

import json

import click

from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import api_server
from llamadeploy.types import Status, StatusEnum


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    help="text for people; json and yaml have every detail.",
)
@click.pass_obj
def status(profile: Profile, output: str) -> None:
    """Print how the API server and its deployments are.

    Exit code 1 where the server is down or unhealthy.
    """
    with api_server(profile) as server:
        found: Status = server.status()
    if output == "json":
        click.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False), nl=False)
    else:
        click.echo(_text(found))
    if found.status is not StatusEnum.HEALTHY:
        raise SystemExit(1)


def _text(found: Status) -> str:
    if found.status is not StatusEnum.HEALTHY:
        return f"LlamaDeploy is unhealthy: {found.status_message}"
    lines = ["LlamaDeploy is up and running.", ""]
    if not found.deployments:
        return "\n".join([*lines, "Currently there are no active deployments"])
    lines.append("Active deployments:")
    for name in found.deployments:
        lines.append(f"- {name}")
        details = found.details.get(name) or {}
        lines += [f"    {line}" for line in _service_lines(details)]
    return "\n".join(lines)


def _service_lines(details: dict[str, object]) -> list[str]:
    lines = []
    services = details.get("services")
    for name, service in services.items() if isinstance(services, dict) else ():
        ready = f"{service.get('ready_replicas')}/{service.get('replicas')}"
        line = f"{name}: {service.get('state')}, {ready}"
        if service.get("last_error"):
            line += f" ({str(service['last_error']).splitlines()[-1]})"
        lines.append(line)
    return lines
