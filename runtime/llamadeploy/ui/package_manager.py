"""Which program installs and starts a front end: npm or pnpm."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamadeploy.exceptions import ConfigurationError

_INSTALL = {
    "npm": ("install", "--no-audit", "--no-fund", "--no-update-notifier"),
    # Packages of ts-dependencies are not in the lock file, which pnpm must therefore extend.
    "pnpm": ("install", "--no-frozen-lockfile", "--reporter=append-only"),
}


@dataclass(frozen=True, slots=True)
class PackageManager:
    """A package manager and its Node.js.

    Attributes:
        name: ``npm`` or ``pnpm``.
        program: its absolute path.
        node: the absolute path of Node.js.
    """

    name: str
    program: str
    node: str

    @property
    def install(self) -> tuple[str, ...]:
        """The command that installs a project's packages, run in its folder."""
        return (self.program, *_INSTALL[self.name])

    @property
    def dev(self) -> tuple[str, ...]:
        """The command that runs a project's ``dev`` script, run in its folder."""
        return (self.program, "run", "dev")


def find_package_manager(
    folder: Path, package: Mapping[str, Any], search: str | None
) -> PackageManager:
    """The one a project asks for, else pnpm (as 0.8.1) where it is installed, else npm.

    Args:
        folder: the project's, with its lock file.
        package: its package.json.
        search: the ``PATH`` to look on.

    Raises:
        ConfigurationError: there is none; says what to install.
    """
    programs = {each: shutil.which(each, path=search) for each in ("npm", "pnpm")}
    node = shutil.which("node", path=search)
    name = next((each for each in _preferred(folder, package) if programs[each]), None)
    if node is None or name is None:
        missing = " and ".join(
            each for each, found in (("node", node), ("npm", name)) if found is None
        )
        raise ConfigurationError(
            f"a user interface runs on Node.js, and {missing} cannot be found on PATH: "
            "install Node.js 20 or newer (it brings npm), see https://nodejs.org, and start the "
            "server again; or remove the section 'ui'"
        )
    return PackageManager(name, str(programs[name]), node)


def _preferred(folder: Path, package: Mapping[str, Any]) -> tuple[str, str]:
    named = str(package.get("packageManager") or "").partition("@")[0]
    if named == "pnpm" or (not named and (folder / "pnpm-lock.yaml").is_file()):
        return ("pnpm", "npm")
    locks = ("package-lock.json", "npm-shrinkwrap.json")
    if named or any((folder / lock).is_file() for lock in locks):
        return ("npm", "pnpm")
    return ("pnpm", "npm")
