"""``llamactl logs``."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from llamadeploy.cli.options import deployment_option, service_option
from llamadeploy.cli.output import output_option, printable
from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import run_async
from llamadeploy.client import Client
from llamadeploy.types import LogLine


@click.command()
@deployment_option
@service_option("Only workers of this service.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written.")
@click.option(
    "-n",
    "--tail",
    type=click.IntRange(0, 100_000),
    default=100,
    show_default=True,
    help="Lines to begin with.",
)
@output_option("text", "json")
@click.pass_obj
def logs(
    profile: Profile, deployment: str, service: str | None, follow: bool, tail: int, output: str
) -> None:
    """Print what the workers of a deployment wrote, each line with its time and replica."""

    async def show(client: Client) -> None:
        found = await client.apiserver.deployments.get(deployment)
        async for line in found.logs(service, tail=tail, follow=follow):
            click.echo(_text(line) if output == "text" else line.model_dump_json())

    run_async(profile, show)


def _text(line: LogLine) -> str:
    at = datetime.fromtimestamp(line.time, UTC).astimezone().isoformat(timespec="milliseconds")
    return f"{at} {line.replica} | {printable(line.text)}"
