"""``resolve`` and ``prepare`` of git sources, as processes against real repositories."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMIT = "commit"


def test_a_branch_is_pinned_to_its_commit_and_moves_no_more(
    repository: Any, resolved: Callable[..., Any], prepared: Callable[..., Path]
) -> None:
    first = repository.commit({"workflow.py": "version = 1\n"})
    url = f"file://{repository.path}"
    assert resolved({"git": {"url": url, "ref": "main"}}) == {COMMIT: first, "lock": ""}
    second = repository.commit({"workflow.py": "version = 2\n"})
    folder = prepared({"git": {"url": url, "ref": "main", "commit": first}})
    assert (folder / "workflow.py").read_text() == "version = 1\n"
    assert resolved({"git": {"url": url}})[COMMIT] == second


def test_an_init_container_that_runs_again_begins_anew(
    history: dict[str, str], repository: Any, prepared: Callable[..., Path]
) -> None:
    source = {"git": {"url": f"file://{repository.path}", "commit": history["tagged"]}}
    folder = prepared(source)
    (folder / "left.py").write_text("half")
    folder.parent.joinpath(f".{folder.name}.fetching").mkdir()
    folder = prepared(source)
    files = {path.name for path in folder.iterdir()}
    assert files == {"workflow.py", ".llamadeploy"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_mounted_credentials_are_used_and_not_shown(
    history: dict[str, str], start_git_http: Any, tmp_path: Path, run: Any
) -> None:
    server = start_git_http(token="pa55-word")
    mounted = tmp_path / "credentials"
    (mounted / "..2026").mkdir(parents=True)
    (mounted / "..data").symlink_to("..2026")
    for name, text in (("username", "reader"), ("password", "pa55-word\n")):
        (mounted / "..2026" / name).write_text(text)
        (mounted / name).symlink_to(f"..data/{name}")
    source = {"git": {"url": server.url(), "credentialsDir": str(mounted)}}
    done = run("resolve", source)
    assert json.loads(done.stdout)[COMMIT] == history["main"], done.stderr
    assert "pa55" not in done.stderr
    wrong = run("resolve", {"git": {"url": server.url()}})
    assert wrong.returncode == 1 and wrong.stdout == "" and "source: " in wrong.stderr
    assert server.logins == ["reader:pa55-word"] * len(server.logins) != []


def test_what_is_wrong_is_said_and_coded(
    history: dict[str, str], repository: Any, run: Any
) -> None:
    def failed(source: Any, dependencies: list[str] | None = None) -> tuple[int, str]:
        done: subprocess.CompletedProcess[str] = run("resolve", source, dependencies)
        assert done.stdout == "" and "Traceback" not in done.stderr
        return done.returncode, done.stderr

    url = f"file://{repository.path}"
    code, text = failed({"git": {"url": url, "ref": "v9"}})
    assert code == 1 and "no branch or tag 'v9'" in text and "v1" in text
    code, text = failed(None)
    assert code == 2 and "LLAMADEPLOY_SOURCE is not set" in text
    code, text = failed({"git": {"url": "https://user:pw@host/x"}, "image": {}})
    assert code == 2 and "exactly one of git, configMap, image" in text and "pw" not in text
    code, text = failed({"git": {"url": url, "commit": "main"}})
    assert code == 2 and "git.commit" in text
    code, text = failed({"git": {"url": url}}, ["-r missing.txt"])
    assert code == 2 and "missing.txt" in text


def test_a_source_with_our_folder_is_refused(repository: Any, run: Any) -> None:
    repository.commit({".llamadeploy/variables.json": "{}"})
    done = run("prepare", {"git": {"url": f"file://{repository.path}"}})
    assert done.returncode == 2 and "'.llamadeploy' of its own" in done.stderr
