"""What the commands share: the client for the profile in force, and how errors end a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import httpx

from llamadeploy.cli.profiles import Profile
from llamadeploy.client import Client
from llamadeploy.exceptions import LlamaDeployError


@contextmanager
def api_server(profile: Profile) -> Iterator[Any]:
    """The synchronous client of the profile's API server.

    Every failure ends the command with ``Error: ...`` and exit code 1.
    """
    client = Client(
        api_server_url=profile.server,
        disable_ssl=profile.insecure,
        timeout=profile.timeout,
    )
    try:
        yield client.sync.apiserver
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
