"""``llamactl deploy``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.progress import Details, with_progress
from llamadeploy.cli.session import run_async
from llamadeploy.client import Client
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.spec import load_deployment


@click.command()
@click.option("--reload", is_flag=True, help="Replace the code of a deployment that exists.")
@click.option(
    "--base-path",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    help="Folder that relative sources start from; default: the folder of the file.",
)
@click.argument(
    "deployment_config_file", type=click.Path(dir_okay=False, resolve_path=True, path_type=Path)
)
@click.pass_obj
def deploy(
    profile: Profile, reload: bool, base_path: Path | None, deployment_config_file: Path
) -> None:
    """Create (or with --reload replace) a deployment from DEPLOYMENT_CONFIG_FILE.

    Returns when every service is ready to take tasks; on an error nothing is left of it. How the
    services come along is told on standard error.
    """
    try:
        content = deployment_config_file.read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read the file: {error}") from error
    name = _name(content)

    async def create(client: Client) -> str:
        async def details() -> Details | None:
            return (await client.apiserver.status()).details.get(name)

        creating = client.apiserver.deployments.create(
            content, base_path=base_path or deployment_config_file.parent, reload=reload
        )
        return (await with_progress(creating, details, Console(stderr=True))).id

    click.echo(f"Deployment successful: {run_async(profile, create)}")


def _name(content: bytes) -> str:
    """The deployment's name; empty where the file is wrong, which the server says better."""
    try:
        return load_deployment(content.decode("utf-8-sig")).name
    except (ConfigurationError, UnicodeDecodeError):
        return ""
