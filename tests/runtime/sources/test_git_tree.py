"""What a hostile repository can hold: nothing of it leaves its folder or is run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.sources import git_tree
from llamadeploy.sources.base import FetchedSource, SourceContext, SourceError
from llamadeploy.sources.registry import fetch_source
from llamadeploy.spec.deployment import SourceSpec


@pytest.fixture
def fetch(tmp_path: Path, repository: Any) -> Callable[[], FetchedSource]:
    """Fetch the repository, over git's own local transport."""

    def fetch_() -> FetchedSource:
        source = SourceSpec(type="git", url=f"file://{repository.path}")
        return fetch_source(source, tmp_path / "holder", SourceContext(tmp_path))

    return fetch_


def entry(mode: str, name: str, object_id: str) -> bytes:
    return f"{mode} {name}".encode() + b"\0" + bytes.fromhex(object_id)


def commit_tree(repository: Any, *entries: bytes) -> None:
    """A commit of a tree that git's own commands would not make."""
    tree = write_tree(repository, *entries)
    commit = repository.git("commit-tree", tree, "-m", "hostile")
    repository.git("update-ref", "refs/heads/main", commit)
    repository.git("push", "--quiet", "--force", "origin", "main")


def write_tree(repository: Any, *entries: bytes) -> str:
    command = ("hash-object", "-t", "tree", "-w", "--literally", "--stdin")
    return str(repository.git(*command, stdin=b"".join(entries)))


def blob(repository: Any, text: str) -> str:
    return str(repository.git("hash-object", "-w", "--stdin", stdin=text.encode()))


@pytest.mark.parametrize("name", ["..", ".", ".git", ".GIT", "git~1", "../../evil", "/evil"])
def test_an_unsafe_path_is_refused(fetch: Any, repository: Any, tmp_path: Path, name: str) -> None:
    commit_tree(repository, entry("100644", name, blob(repository, "x")))
    with pytest.raises(SourceError, match="which is not safe"):
        fetch()
    assert not (tmp_path / "evil").exists()
    assert list((tmp_path / "holder").iterdir()) == []


def test_an_unsafe_folder_is_refused(fetch: Any, repository: Any, tmp_path: Path) -> None:
    inner = write_tree(repository, entry("100644", "evil", blob(repository, "x")))
    commit_tree(repository, entry("40000", "..", inner))
    with pytest.raises(SourceError, match="which is not safe"):
        fetch()
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "..", "a/../../b"])
def test_a_link_that_leaves_the_tree_is_refused(
    fetch: Any, repository: Any, tmp_path: Path, target: str
) -> None:
    (repository.work / "leak").symlink_to(target)
    repository.commit({})
    with pytest.raises(SourceError, match="the symbolic link 'leak' leaves the repository"):
        fetch()
    assert list((tmp_path / "holder").iterdir()) == []


def test_links_that_leave_the_tree_together_are_refused(fetch: Any, repository: Any) -> None:
    (repository.work / "a").mkdir()
    (repository.work / "a" / "up").symlink_to("..")
    (repository.work / "out").symlink_to("a/up/..")
    repository.commit({})
    with pytest.raises(SourceError, match="the symbolic link 'out' leaves"):
        fetch()


def test_nothing_is_written_through_a_link(fetch: Any, repository: Any, tmp_path: Path) -> None:
    """A link and a folder of one name, as git once checked out into ``.git/hooks``."""
    (tmp_path / "target").mkdir()
    inner = write_tree(repository, entry("100644", "evil", blob(repository, "x")))
    link = blob(repository, str(tmp_path / "target"))
    commit_tree(repository, entry("120000", "a", link), entry("40000", "a", inner))
    with pytest.raises(SourceError, match="symbolic link 'a'"):
        fetch()
    assert list((tmp_path / "target").iterdir()) == []


def test_links_inside_the_tree_work(fetch: Any, repository: Any) -> None:
    repository.commit({"package/module.py": "x = 1\n"})
    (repository.work / "alias").symlink_to("package")
    (repository.work / "package" / "self.py").symlink_to("../alias/module.py")
    repository.commit({})
    root = fetch().root
    assert (root / "package" / "self.py").read_text() == "x = 1\n"
    assert os.readlink(root / "alias") == "package"


def test_submodules_and_their_configuration_do_nothing(
    fetch: Any, repository: Any, tmp_path: Path
) -> None:
    evil = tmp_path / "evil"
    modules = (
        '[submodule "x"]\n\tpath = ../../outside\n\turl = ext::sh -c "touch ' + str(evil) + '"\n'
        '[submodule "../../y"]\n\tpath = sub\n\turl = -u./payload\n\tupdate = !touch ' + str(evil)
    )
    commit = repository.commit({".gitmodules": modules, "workflow.py": ""})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    repository.git("commit", "--quiet", "-m", "submodule")
    repository.push()
    root = fetch().root
    assert sorted(path.name for path in root.iterdir()) == [".gitmodules", "workflow.py"]
    assert not evil.exists()
    assert not list(tmp_path.rglob("outside"))


def test_attributes_change_nothing(fetch: Any, repository: Any, tmp_path: Path) -> None:
    files = {
        ".gitattributes": "*.py filter=evil eol=crlf ident\nhidden.py export-ignore\n",
        "hidden.py": "x = '$Id$'\n", "workflow.py": "$Format:%H$\n",
    }  # fmt: skip
    repository.commit(files)
    root = fetch().root
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {
        name: text.encode() for name, text in files.items()
    }


def test_modes_and_bytes_are_kept(fetch: Any, repository: Any) -> None:
    data = bytes(range(256)) * 8192
    (repository.work / "data.bin").write_bytes(data)
    (repository.work / "run.sh").write_text("#!/bin/sh\n")
    (repository.work / "run.sh").chmod(0o755)
    (repository.work / "ä ö\n.txt").write_text("odd name")
    repository.commit({"empty.py": ""})
    root = fetch().root
    assert (root / "data.bin").read_bytes() == data
    assert os.access(root / "run.sh", os.X_OK)
    assert not os.access(root / "empty.py", os.X_OK)
    assert (root / "ä ö\n.txt").read_text() == "odd name"


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 10), ("MAX_FILES", 1)])
def test_too_large_a_tree_is_refused(
    fetch: Any, repository: Any, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    repository.commit({"a.py": "x" * 8, "b.py": "x" * 8})
    monkeypatch.setattr(git_tree, limit, value)
    with pytest.raises(SourceError, match="use one with the code alone"):
        fetch()
