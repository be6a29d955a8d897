"""The command ``llamadeploy rotate-keys``: a new signing key for a deployment of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from llamadeploy.api_server.backends.local.data_directory import DeploymentFolder
from llamadeploy.api_server.options import DEFAULT_DATA_DIR
from llamadeploy.exceptions import LlamaDeployError


@click.command("rotate-keys", short_help="Give a deployment of this machine a new signing key.")
@click.argument("deployment")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=DEFAULT_DATA_DIR,
    help=f"The API server's data directory.  [default: {DEFAULT_DATA_DIR}]",
)
def rotate_keys(deployment: str, data_dir: Path) -> None:
    """Give DEPLOYMENT a new key to sign contexts with. Older keys still verify.

    It counts from the server's next start on: workers that do not know the key must not meet
    contexts signed with it. To forget an old key delete its line from the file `signing-keys` in
    the deployment's folder; sessions whose context it signed last then begin anew with an error.
    """
    try:
        keys = DeploymentFolder.of(data_dir, deployment).rotate_signing_keys()
    except LlamaDeployError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    click.echo(f"Contexts of {deployment} will be signed with key {keys.key_ids[0]}.")
    click.echo("Restart the API server now; it goes on with its tasks.")


def main() -> None:
    """The console entry: parses the command line."""
    rotate_keys(prog_name="llamadeploy rotate-keys")
