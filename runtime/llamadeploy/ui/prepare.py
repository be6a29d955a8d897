"""Everything about a user interface that is done, and can fail, before its process starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamadeploy.api_server.backends.local.environment import INHERITED, INHERITED_PREFIXES
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.spec.deployment import UiSpec
from llamadeploy.ui.package_manager import PackageManager, find_package_manager
from llamadeploy.ui.packages import Project, read_package

TOOL_VARIABLES = frozenset({"PNPM_HOME", "NODE_EXTRA_CA_CERTS", "COREPACK_HOME"})
INSTALLER_PREFIXES = ("npm_config_", "NPM_CONFIG_", "COREPACK_")
"""Settings of the machine's package manager, logins among them: for installs alone."""


@dataclass(frozen=True, slots=True)
class PreparedUi:
    """A front end that can be started.

    Attributes:
        deployment: whose it is.
        folder: the folder of its package.json, a copy that is the deployment's own.
        variables: its own environment, env-files included.
        secrets: values that must not appear in a log or response.
        port: the one the file asks for.
        packages: ``installed`` by this deploy or ``cached`` from an earlier one; ``None`` where
            the deployment was brought back as it ran.
    """

    deployment: str
    folder: Path
    manager: PackageManager
    variables: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    port: int | None = None
    packages: str | None = None

    @property
    def base_path(self) -> str:
        """Where it is served, without a slash at the end."""
        return f"/ui/{self.deployment}"

    def environ(self, port: int, server: Mapping[str, str] | None = None) -> dict[str, str]:
        """The whole environment of a run on ``port``."""
        return {
            **_inherited(server),
            **self.variables,
            "PORT": str(port),
            "HOST": "127.0.0.1",
            "LLAMA_DEPLOY_NEXTJS_BASE_PATH": self.base_path,
            "LLAMA_DEPLOY_NEXTJS_DEPLOYMENT_NAME": self.deployment,
        }


def prepared_ui(
    spec: UiSpec,
    deployment: str,
    folder: Path,
    variables: dict[str, str],
    secrets: tuple[str, ...],
) -> tuple[PreparedUi, dict[str, Any]]:
    """Check that the front end in ``folder`` can be started here; also return its package.json.

    Raises:
        ConfigurationError: package.json is wrong, or there is no Node.js.
    """
    package = read_package(folder)
    search = variables.get("PATH", os.environ.get("PATH"))
    manager = find_package_manager(folder, package, search)
    return PreparedUi(deployment, folder, manager, variables, secrets, spec.port), package


def project_of(ui: PreparedUi, spec: UiSpec, package: dict[str, Any]) -> Project:
    """What the installer is told."""
    environ = {**_inherited(prefixes=INSTALLER_PREFIXES), **ui.variables}
    return Project(ui.folder, package, ui.manager, spec.ts_dependencies, environ)


def find_project(root: Path, holder: Path, path: str | None) -> Path:
    """The folder of package.json: ``path`` in the source, else the source itself or its ``ui``,
    which is the place 0.8.1 looks at.

    Args:
        root: the source's folder, below ``holder``; ``path`` may also start from the latter.

    Raises:
        ConfigurationError: it is not there.
    """
    candidates = [root / path, holder / path] if path else [root, root / "ui"]
    inside = [each for each in candidates if each.resolve().is_relative_to(holder.resolve())]
    for folder in inside:
        if (folder / "package.json").is_file():
            return folder
    if not inside:
        raise ConfigurationError(
            f"path: '{path}' leaves the source; write the folder of package.json, relative to it"
        )
    looked = ", ".join(str((each / "package.json").relative_to(holder)) for each in inside)
    raise ConfigurationError(
        f"source: there is no package.json (looked for {looked}); write the front end's folder as "
        "source.name, or its place in the source as path"
    )


def without_logins(text: str) -> str:
    """The text without user and password of any URL in it."""
    return re.sub(r"://[^/\s@]+@", "://***@", text)


def _inherited(
    server: Mapping[str, str] | None = None, prefixes: tuple[str, ...] = ()
) -> dict[str, str]:
    server = os.environ if server is None else server
    names, starts = INHERITED | TOOL_VARIABLES, (*INHERITED_PREFIXES, *prefixes)
    return {
        name: value for name, value in server.items() if name in names or name.startswith(starts)
    }
