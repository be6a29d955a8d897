"""``llamactl deploy``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import api_server


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

    Returns when every service is ready to take tasks; on an error nothing is left of it.
    """
    try:
        content = deployment_config_file.read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read the file: {error}") from error
    waiting = Console(stderr=True).status("Starting services ...")
    with api_server(profile) as server, waiting:
        deployment = server.deployments.create(
            content, base_path=base_path or deployment_config_file.parent, reload=reload
        )
    click.echo(f"Deployment successful: {deployment.id}")
