"""The environment of a worker process: the server's without our own names, the service's, ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.settings import PREFIX, PodSettings
from llamadeploy.spec.deployment import ComponentSpec

INHERITED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM",
        "LD_LIBRARY_PATH", "PYTHONHOME", "VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
        "http_proxy", "https_proxy", "no_proxy",
    }
)  # fmt: skip
"""What a process needs of the machine; all that a user interface gets, whose code often sends its
whole environment to browsers."""

INHERITED_PREFIXES = ("LC_", "XDG_")

OUR_PREFIXES = (PREFIX, "LLAMA_DEPLOY_")
"""Names that configure the server, its token among them: never passed on to workflows."""


def worker_environ(
    settings: PodSettings, variables: Mapping[str, str], server: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of one worker; ``variables`` are its service's own.

    A workflow finds what its user exported before starting the server (an ``OPENAI_API_KEY``, say),
    as with LlamaDeploy 0.8.1. What one service's ``env`` sets reaches no other service, and the
    worker itself reads ``LLAMADEPLOY_*`` alone.
    """
    server = os.environ if server is None else server
    environ = {name: value for name, value in server.items() if not name.startswith(OUR_PREFIXES)}
    if path := server.get("PYTHONPATH"):
        # The worker runs in another folder; its relative entries would point elsewhere.
        environ["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in path.split(":"))
    environ["PYTHONUNBUFFERED"] = "1"
    environ.update(variables)
    environ.update(settings.to_environ())
    return environ


def service_variables(
    service: ComponentSpec, folders: tuple[Path, ...], at: str | None = None
) -> dict[str, str]:
    """``env`` with the variables of the ``env-files`` on top, later files over earlier ones.

    Args:
        folders: where an env-file is looked for, in this order. Blocking.
        at: where it stands in the file, by default ``services.<name>``.

    Raises:
        ConfigurationError: a file is missing or unreadable, or a name is one of ours.
    """
    at = at or f"services.{service.name}"
    variables = dict(service.env)
    for name in service.env_files:
        variables.update(_read(at, name, folders))
    for name, value in variables.items():
        if "\0" in value or "\0" in name or "=" in name or not name:
            raise ConfigurationError(
                f"{at}.env: {name!r} cannot be a variable of a process: "
                "leave out NUL characters, and '=' from the name"
            )
        if name.startswith(PREFIX):
            raise ConfigurationError(
                f"{at}.env: '{name}' is set by the server: "
                f"use a name that does not begin with {PREFIX}"
            )
    return variables


def _read(at: str, name: str, folders: tuple[Path, ...]) -> dict[str, str]:
    try:
        path = _find(name, folders)
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{at}.env-files: {name!r} cannot be read: {error}; write the path of a "
            "plain UTF-8 text file, relative to the deployment file or to the source"
        ) from None
    values = dotenv_values(stream=StringIO(text))
    return {key: value for key, value in values.items() if value is not None}


def _find(name: str, folders: tuple[Path, ...]) -> Path:
    looked = []
    for folder in folders:
        path = folder / name
        if path.resolve().is_relative_to(folder.resolve()):
            looked.append(str(path))
            if path.is_file():
                return path
    where = f"it is not there (looked at {', '.join(looked)})" if looked else "it leaves its folder"
    raise FileNotFoundError(where)
