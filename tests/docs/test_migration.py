"""The steps of docs/migration.md, with the real llama-deploy 0.8.1 as the client that stays."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llamadeploy

FILES = {
    "yaml deployment.yml": "deployment.yml",
    "python src/workflow.py": "src/workflow.py",
    "python client.py": "client.py",
}


@pytest.fixture(scope="module")
def old() -> Path:
    """The environment with llama-deploy 0.8.1; no skip where the suite must run (CI)."""
    from benchmarks.environment import EnvironmentUnavailable, original_python

    try:
        return original_python().parents[1]
    except EnvironmentUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(f"no environment for llama-deploy 0.8.1: {error}")


@pytest.mark.compat
@pytest.mark.timeout(600)
def test_step_by_step(
    old: Path, block: Any, type_commands: Callable[..., str], serve: Any, tmp_path: Path
) -> None:
    for name, path in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(block("migration.md", name))
    with serve(tmp_path / "data", tmp_path / "deployment.yml") as server:
        look = type_commands("migration.md", "sh first-look", SERVER=server.url)
        assert "- shop" in look and "Hello, Ada!" in look
        before = type_commands("migration.md", "sh old-clients", SERVER=server.url, OLD=old)
        assert before.count("Hello, Ada!") == 2
        after = type_commands("migration.md", "sh new-clients", SERVER=server.url)
        assert after == "Hello, Ada!\n"
        type_commands("migration.md", "sh manifest")
        assert "kind: Deployment" in (tmp_path / "manifest.yaml").read_text()


def test_the_names_that_are_gone_are_said_to_be(old: Path) -> None:
    """What 0.8.1 exports and we do not stands in the table."""
    (module,) = old.glob("lib/python*/site-packages/llama_deploy/__init__.py")
    (names,) = (
        node.value
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    missing = set(ast.literal_eval(names)) - set(llamadeploy.__all__)
    text = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
    assert missing and all(f"`{name}`" in text for name in missing), missing
