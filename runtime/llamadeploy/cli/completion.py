"""``llamactl completion``, and the names that are completed by asking the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from llamadeploy.cli.profiles import Config

COMPLETION_SECONDS = 2.0
"""What a server gets to name things: whoever pressed the tab key waits."""

HOW = {
    "bash": 'eval "$(llamactl completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(llamactl completion zsh)"   # in ~/.zshrc',
    "fish": "llamactl completion fish | source   # in ~/.config/fish/config.fish",
}


@click.command(
    epilog="\b\n" + "\n".join(HOW.values()),
)
@click.argument("shell", type=click.Choice(list(HOW)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and names in SHELL.

    Names of deployments and services are asked of the server of the profile in force.
    """
    maker = get_completion_class(shell)
    assert maker is not None  # noqa: S101 - click has these three
    root = ctx.find_root()
    click.echo(maker(root.command, {}, "llamactl", "_LLAMACTL_COMPLETE").source())


def complete_deployments(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of deployments."""

    async def names(client: object) -> list[str]:
        return [each.id for each in await client.apiserver.deployments.list()]  # type: ignore[attr-defined]

    return _ask(ctx, names, incomplete)


def complete_services(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of the services of the deployment that the line names."""
    deployment = ctx.params.get("deployment")
    if not deployment:
        return []

    async def names(client: object) -> list[str]:
        from llamadeploy.client.services import DeploymentServices

        services = DeploymentServices(client, deployment)  # type: ignore[arg-type]
        return [each.service_name for each in await services.list()]

    return _ask(ctx, names, incomplete)


def _ask(
    ctx: click.Context, names: Callable[[object], Awaitable[list[str]]], incomplete: str
) -> list[str]:
    """What begins like the word; nothing where the server does not answer: a shell that completes
    must not show an error."""

    async def ask() -> list[str]:
        from llamadeploy.client import Client

        options = ctx.find_root().params
        config = Config.load(options.get("config") and Path(options["config"]))
        profile = config.profiles[options.get("profile") or config.current_profile]
        client = Client(
            api_server_url=options.get("server") or profile.server,
            disable_ssl=bool(options.get("insecure") or profile.insecure),
            timeout=COMPLETION_SECONDS,
        )
        async with client:
            return await names(client)

    try:
        found = asyncio.run(asyncio.wait_for(ask(), COMPLETION_SECONDS))
    except Exception:  # noqa: BLE001 - whatever it was, the line is typed by hand then
        return []
    return [name for name in found if name.startswith(incomplete)]
