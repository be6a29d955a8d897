"""Source ``local``: what is copied, what is refused, and that nothing else is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamadeploy.exceptions import UnsupportedFeatureError
from llamadeploy.sources import local
from llamadeploy.sources.base import SourceContext, SourceError
from llamadeploy.sources.registry import fetch_source
from llamadeploy.spec.deployment import SourceSpec


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A deployment file's folder with a source ``src``."""
    source = tmp_path / "project" / "src"
    (source / "package").mkdir(parents=True)
    (source / "workflow.py").write_text("echo = 1\n")
    (source / "package" / "data.txt").write_text("data")
    return tmp_path / "project"


def fetch(project: Path, holder: Path, name: str = "src", *excluded: Path) -> Path:
    context = SourceContext(project, excluded)
    return fetch_source(SourceSpec(type="local", name=name), holder, context).root


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Every path below ``folder`` with its content or link target."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else "folder"
    return found


def test_the_tree_is_copied_under_its_own_name(project: Path, tmp_path: Path) -> None:
    before = snapshot(project)
    root = fetch(project, tmp_path / "holder")
    assert root == tmp_path / "holder" / "src"
    assert snapshot(root) == snapshot(project / "src")
    assert snapshot(project) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [("./src", "src"), ("src/package", "src/package"), (".", "project"), ("../project", "project")],
)
def test_where_the_copy_goes(project: Path, tmp_path: Path, name: str, expected: str) -> None:
    assert fetch(project, tmp_path / "holder", name) == tmp_path / "holder" / expected


def test_repositories_caches_and_environments_are_left_out(project: Path, tmp_path: Path) -> None:
    source = project / "src"
    for name in (".git", "__pycache__", ".venv", "node_modules"):
        (source / name).mkdir()
        (source / name / "large.bin").write_text("x")
    (source / "my-environment").mkdir()
    (source / "my-environment" / "pyvenv.cfg").write_text("home = /usr/bin")
    (source / "old.pyc").write_bytes(b"x")
    assert sorted(snapshot(fetch(project, tmp_path / "holder"))) == [
        "package", "package/data.txt", "workflow.py",
    ]  # fmt: skip


def test_the_servers_own_data_is_left_out(project: Path) -> None:
    data = project / "data"
    root = fetch(project, data / "echo" / "work", ".", data)
    assert "data" not in snapshot(root)
    assert "src/workflow.py" in snapshot(root)


def test_a_link_inside_the_tree_stays_inside_the_copy(project: Path, tmp_path: Path) -> None:
    (project / "src" / "alias.py").symlink_to(project / "src" / "workflow.py")
    (project / "src" / "package" / "up").symlink_to("../workflow.py")
    root = fetch(project, tmp_path / "holder")
    assert (root / "alias.py").resolve() == root / "workflow.py"
    assert (root / "package" / "up").resolve() == root / "workflow.py"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "../missing"])
def test_a_link_that_leaves_the_tree_is_refused(project: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (project / "src" / "leak").symlink_to(target)
    with pytest.raises(SourceError, match="the symbolic link 'leak' leaves the folder"):
        fetch(project, tmp_path / "holder")


def test_pipes_and_link_loops_do_not_hang(project: Path, tmp_path: Path) -> None:
    os.mkfifo(project / "src" / "pipe")
    (project / "src" / "loop").symlink_to("loop")
    assert "pipe" not in snapshot(fetch(project, tmp_path / "holder"))


def test_too_large_a_source_is_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_BYTES", 3)
    with pytest.raises(SourceError, match="write a folder with the code alone"):
        fetch(project, tmp_path / "bytes")
    monkeypatch.setattr(local, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(local, "MAX_FILES", 1)
    with pytest.raises(SourceError, match="more than 1 files"):
        fetch(project, tmp_path / "files")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "source.name: 'missing' does not exist in"),
        ("src/workflow.py", "is a file; write the folder that contains it"),
        ("/etc", "is an absolute path; write the folder relative to the deployment file"),
        ("a\0b", "does not exist"),
        ("x" * 300, "source"),
    ],
)
def test_a_wrong_name_is_a_clear_error(
    project: Path, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        fetch(project, tmp_path / "holder", name)


def test_a_missing_base_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"base_path: .* is not a folder on the server's machine"):
        fetch(tmp_path / "nowhere", tmp_path / "holder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(project: Path, tmp_path: Path) -> None:
    (project / "src" / "workflow.py").chmod(0)
    with pytest.raises(SourceError, match=r"workflow\.py.*cannot be copied: Permission denied"):
        fetch(project, tmp_path / "holder")


def test_an_image_is_refused_by_name(tmp_path: Path) -> None:
    source = SourceSpec(type="image", name="x")
    with pytest.raises(UnsupportedFeatureError, match="'image' is not available here"):
        fetch_source(source, tmp_path / "holder", SourceContext(tmp_path))
