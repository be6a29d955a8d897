"""What the commands share: the client for the profile in force, and how errors end a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import httpx

from llamadeploy.cli.profiles import Profile
from llamadeploy.client import Client
from llamadeploy.exceptions import LlamaDeployError

T = TypeVar("T")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the signal's number."""


@contextmanager
def api_server(profile: Profile) -> Iterator[Any]:
    """The synchronous client of the profile's API server.

    Every failure ends the command with ``Error: ...`` and exit code 1.
    """
    with translated(profile):
        yield _client(profile).sync.apiserver


def run_async(profile: Profile, command: Callable[[Client], Awaitable[T]]) -> T:
    """Run a command that does several things at once, or follows a stream until Ctrl-C."""

    async def run() -> T:
        async with _client(profile) as client:
            return await command(client)

    with translated(profile):
        try:
            return asyncio.run(run())
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


@contextmanager
def translated(profile: Profile) -> Iterator[None]:
    """Errors as people read them."""
    try:
        yield
    except LlamaDeployError as error:
        raise click.ClickException(str(error)) from error
    except httpx.TimeoutException as error:
        raise click.ClickException(
            f"{profile.server} did not answer within {profile.timeout:g} s; "
            "a task that was accepted goes on. Wait longer with --timeout."
        ) from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise click.ClickException(
            f"no API server answers at {profile.server} ({error}). Start one with "
            "'llamactl serve', or name another with --server."
        ) from error


def _client(profile: Profile) -> Client:
    return Client(
        api_server_url=profile.server,
        disable_ssl=profile.insecure,
        timeout=profile.timeout,
    )
