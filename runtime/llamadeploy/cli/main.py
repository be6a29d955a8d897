"""The root of ``llamactl``: global options, the profile in force, and the list of commands."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from llamadeploy._version import __version__
from llamadeploy.cli.profiles import Config, complete_profiles

COMMANDS = {
    "cancel": "llamadeploy.cli.tasks:cancel",
    "completion": "llamadeploy.cli.completion:completion",
    "config": "llamadeploy.cli.config:config",
    "dead-letters": "llamadeploy.cli.dead_letters:dead_letters",
    "delete": "llamadeploy.cli.delete:delete",
    "deploy": "llamadeploy.cli.deploy:deploy",
    "events": "llamadeploy.cli.events:events",
    "init": "llamadeploy.cli.init:init",
    "logs": "llamadeploy.cli.logs:logs",
    "manifest": "llamadeploy.cli.manifest:manifest",
    "purge": "llamadeploy.cli.purge:purge",
    "run": "llamadeploy.cli.run:run",
    "serve": "llamadeploy.cli.serve:serve",
    "services": "llamadeploy.cli.services:services",
    "sessions": "llamadeploy.cli.sessions:sessions",
    "status": "llamadeploy.cli.status:status",
    "tasks": "llamadeploy.cli.tasks:tasks",
}
"""Command to ``module:attribute``; a command's module is imported only when it is used."""


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for, so that ``--help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    epilog="Start with: llamactl serve FILE, then in another terminal: llamactl run -d NAME.",
)
@click.version_option(__version__, prog_name="llamactl")
@click.option("-c", "--config", type=Path, help="Configuration file of llamactl.")
@click.option(
    "-p",
    "--profile",
    shell_complete=complete_profiles,
    help="Profile to use; default: the current one.",
)
@click.option("-s", "--server", help="URL of the API server, instead of the profile's.")
@click.option("-k", "--insecure", is_flag=True, default=None, help="Do not check TLS certificates.")
@click.option("-t", "--timeout", type=float, help="Seconds to wait for the API server.")
@click.pass_context
def llamactl(
    ctx: click.Context,
    config: Path | None,
    profile: str | None,
    server: str | None,
    insecure: bool | None,
    timeout: float | None,
) -> None:
    """Run LlamaIndex workflows as services and give them tasks.

    A deployment file (or a Kubernetes manifest of kind Deployment) says which workflows. An access
    token is read from LLAMA_DEPLOY_TOKEN.

    Exit codes: 0 done, 1 an error (also a server that is down or unhealthy), 2 wrong usage, 3 the
    task of 'run' failed or was cancelled, 4 'purge' was refused because workers hold tasks, 130
    interrupted while following.
    """
    stored = Config.load(config)
    name = profile or stored.current_profile
    if name not in stored.profiles:
        known = ", ".join(sorted(stored.profiles))
        raise click.ClickException(f"Profile {name} does not exist. The file has: {known}.")
    chosen = stored.profiles[name]
    ctx.obj = chosen.model_copy(
        update={
            "server": server or chosen.server,
            "insecure": chosen.insecure if insecure is None else insecure,
            "timeout": chosen.timeout if timeout is None else timeout,
        }
    )
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point of the console script."""
    llamactl(prog_name="llamactl")
