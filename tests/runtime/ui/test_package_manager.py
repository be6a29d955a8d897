"""Which package manager is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.ui.package_manager import find_package_manager
from llamadeploy.ui.prepare import without_logins


def programs(folder: Path, *names: str) -> str:
    """A ``PATH`` with programs of these names."""
    folder.mkdir()
    for name in names:
        (folder / name).touch(mode=0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("file", "package", "both", "npm_alone"),
    [
        ("", {}, "pnpm", "npm"),  # as 0.8.1
        ("pnpm-lock.yaml", {}, "pnpm", "npm"),
        ("package-lock.json", {}, "npm", "npm"),
        ("npm-shrinkwrap.json", {}, "npm", "npm"),
        ("package-lock.json", {"packageManager": "pnpm@9.1.0"}, "pnpm", "npm"),
        ("pnpm-lock.yaml", {"packageManager": "npm@11.0.0"}, "npm", "npm"),
        ("yarn.lock", {"packageManager": "yarn@1.22.0"}, "npm", "npm"),
    ],
)
def test_which(
    tmp_path: Path, file: str, package: dict[str, Any], both: str, npm_alone: str
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    if file:
        (project / file).touch()
    path = programs(tmp_path / "both", "node", "npm", "pnpm")
    found = find_package_manager(project, package, path)
    assert (found.name, found.program, found.node) == (both, f"{path}/{both}", f"{path}/node")
    path = programs(tmp_path / "npm", "node", "npm")
    assert find_package_manager(project, package, path).name == npm_alone


def test_pnpm_alone(tmp_path: Path) -> None:
    (tmp_path / "package-lock.json").touch()
    path = programs(tmp_path / "bin", "node", "pnpm")
    assert find_package_manager(tmp_path, {}, path).name == "pnpm"


@pytest.mark.parametrize(
    ("present", "missing"),
    [(("npm", "pnpm"), "node cannot"), (("node",), "npm cannot"), ((), "node and npm cannot")],
)
def test_none(tmp_path: Path, present: tuple[str, ...], missing: str) -> None:
    path = programs(tmp_path / "bin", *present)
    with pytest.raises(ConfigurationError, match=f"{missing} be found on PATH: install Node.js"):
        find_package_manager(tmp_path, {}, path)


def test_logins_of_registries_are_not_shown() -> None:
    text = "GET https://me:pa55@npm.example.com/x failed, see git+ssh://git@host/y"
    assert without_logins(text) == (
        "GET https://***@npm.example.com/x failed, see git+ssh://***@host/y"
    )
