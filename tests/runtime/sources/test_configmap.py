"""Source ``configmap``: files written below their folder and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamadeploy.sources.base import SourceContext, SourceError
from llamadeploy.sources.registry import fetch_source
from llamadeploy.spec.deployment import SourceSpec


def fetch(tmp_path: Path, files: dict[str, str], name: str = "code") -> Path:
    source = SourceSpec(type="configmap", name=name, files=files)
    return fetch_source(source, tmp_path / "holder", SourceContext(tmp_path)).root


def test_files_are_written_as_they_are(tmp_path: Path) -> None:
    root = fetch(tmp_path, {"workflow.py": "echo = 'ä'\n", "package/__init__.py": ""})
    assert root == tmp_path / "holder" / "code"
    assert (root / "workflow.py").read_text(encoding="utf-8") == "echo = 'ä'\n"
    assert (root / "package" / "__init__.py").read_text() == ""


@pytest.mark.parametrize(
    "name", ["../evil.py", "/etc/evil", "a/../../evil", "a//b", ".", "", "a\\b", "a\0b", "a\nb"]
)
def test_a_name_that_is_no_relative_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="is not a file name; use a relative path"):
        fetch(tmp_path, {name: "x"})
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("name", ["../code", "a/b", "/code"])
def test_the_configmaps_own_name_is_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=r"source\.name"):
        fetch(tmp_path, {"workflow.py": ""}, name)


def test_a_file_and_a_folder_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="'a/b' cannot be written"):
        fetch(tmp_path, {"a": "x", "a/b": "y"})


def test_an_empty_configmap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the ConfigMap 'code' has no files"):
        fetch(tmp_path, {})
