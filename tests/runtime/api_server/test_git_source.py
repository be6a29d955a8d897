"""Deployments whose code is in git, from the file to the result of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TOKEN = "s3cret-git-token"

WORKFLOW = """
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent
from neighbour import WORD

class Say(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=WORD)

say = Say()
"""


def write(repository: Any, word: str) -> str:
    files = {"src/workflow.py": WORKFLOW, "src/neighbour.py": f"WORD = {word!r}\n"}
    return str(repository.commit(files))


def file(name: str, *urls: str) -> dict[str, Any]:
    """A deployment of services ``say0``, ``say1``, ... from repositories."""
    services = {
        f"say{number}": {
            "name": "say",
            "source": {"type": "git", "name": url},
            "path": "src/workflow:say",
        }
        for number, url in enumerate(urls)
    }
    return {"name": name, "control-plane": {}, "default-service": "say0", "services": services}


def everything_shown(server: Any) -> str:
    """Status, log and command lines."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    shown = [server.get("/status/").body, server.log.read_text(), *lines]
    return "\n".join(map(str, shown))


@pytest.fixture(scope="module")
def running(start_server: Any) -> Any:
    """An API server that has a token in its environment."""
    return start_server(None, env={"LLAMA_DEPLOY_GIT_TOKEN": TOKEN})


@pytest.fixture
def server(running: Any, start_git_http: Any) -> Any:
    """The module's server, with ``git_http``, which wants the token."""
    running.git_http = start_git_http(token=TOKEN)
    return running


def test_branches_tags_and_commits(server: Any, repository: Any, tmp_path: Path) -> None:
    commits = {"v1": write(repository, "one")}
    repository.git("tag", "v1")
    commits["two"] = write(repository, "two")
    repository.git("checkout", "--quiet", "-b", "feature/x")
    commits["feature/x"] = write(repository, "three")
    url = server.git_http.url()
    refs = [f"{url}@v1", f"{url}@{commits['two'][:8]}", f"{url}@feature/x", url]
    reply = server.create(file("say", *refs), tmp_path)
    assert reply.status == 200, reply
    words = [server.run("say", f"say{number}").body for number in range(4)]
    assert words == ["one", "two", "three", "two"]
    source = server.service("say", "say2")["source"]
    assert source == {
        "type": "git", "url": url, "ref": "feature/x", "commit": commits["feature/x"],
    }  # fmt: skip
    assert not list((server.data_dir / "say").rglob(".git*"))
    assert TOKEN not in everything_shown(server)


def test_a_reload_takes_the_branchs_new_commit(
    server: Any, repository: Any, tmp_path: Path
) -> None:
    deployment = file("again", f"{server.git_http.url()}@main", f"{server.git_http.url()}@main")
    first = write(repository, "old")
    assert server.create(deployment, tmp_path).status == 200
    # Both services' code came in one fetch: they cannot be of two commits.
    assert sum("info/refs" in each for each in server.git_http.requests) <= 4
    second = write(repository, "new")
    assert server.service("again", "say0")["source"]["commit"] == first
    assert server.create(deployment, tmp_path, reload=True).status == 200
    assert [server.run("again", name).body for name in ("say0", "say1")] == ["new", "new"]
    assert server.service("again", "say1")["source"]["commit"] == second


def test_a_restart_needs_no_repository(
    start_server: Any, git_http: Any, repository: Any, tmp_path: Path
) -> None:
    commit = write(repository, "kept")
    first = start_server()
    assert first.create(file("kept", git_http.url()), tmp_path).status == 200
    first.stop()
    git_http.requests.clear()
    second = start_server(first.data_dir)
    second.wait_until(lambda: second.run("kept").body == "kept", "the deployment is back")
    assert second.service("kept", "say0")["source"]["commit"] == commit
    assert git_http.requests == []
    second.stop()


def test_what_is_wrong_is_said_and_the_old_code_serves_on(
    server: Any, repository: Any, tmp_path: Path
) -> None:
    write(repository, "good")
    url = server.git_http.url()
    assert server.create(file("careful", url), tmp_path).status == 200
    reply = server.create(file("careful", f"{url}@mian"), tmp_path, reload=True)
    assert reply.status == 400
    assert "services.say0.source: " in reply.detail
    assert "the nearest are: main" in reply.detail
    server.git_http.token = "changed"
    reply = server.create(file("careful", url), tmp_path, reload=True)
    assert (reply.status, "does not accept the user and token" in reply.detail) == (400, True)
    assert server.run("careful").body == "good"
    shown = everything_shown(server) + str(reply)
    assert "does not accept the user and token" in shown
    assert TOKEN not in shown


def test_a_token_in_the_files_url_is_not_shown(
    server: Any, start_git_http: Any, repository: Any, tmp_path: Path
) -> None:
    write(repository, "word")
    own = "s3cret-of-the-file"
    git_http = start_git_http(token=own)
    seen: list[str] = []
    git_http.watch = lambda: seen.append(everything_shown(server))
    assert server.create(file("url", git_http.url(f"me:{own}")), tmp_path).status == 200
    reply = server.create(file("bad", git_http.url("me:another-secret")), tmp_path)
    assert reply.status == 400
    assert "the host does not accept the user and token" in reply.detail
    assert len(seen) > 2
    for text in (*seen, str(reply), everything_shown(server)):
        assert own not in text
        assert "another-secret" not in text


def test_ssh_with_a_key_of_the_environment(
    start_server: Any, git_ssh: Any, repository: Any, tmp_path: Path
) -> None:
    write(repository, "over ssh")
    (tmp_path / "known_hosts").write_text(git_ssh.known_hosts)
    server = start_server(
        None,
        env={
            "LLAMA_DEPLOY_GIT_SSH_KEY_FILE": str(git_ssh.key),
            "LLAMA_DEPLOY_GIT_KNOWN_HOSTS": str(tmp_path / "known_hosts"),
        },
    )
    url = git_ssh.url(repository.path)
    reply = server.create(file("ssh", f"{url}@main"), tmp_path)
    assert reply.status == 200, reply
    assert server.run("ssh").body == "over ssh"
    secret = git_ssh.key.read_text().splitlines()[1]
    kept = [path for path in server.data_dir.rglob("*") if path.is_file()]
    assert not any(secret.encode() in path.read_bytes() for path in kept)
    assert secret not in everything_shown(server)


def test_nothing_is_written_or_deleted_outside(
    server: Any, repository: Any, tmp_path: Path
) -> None:
    """A link out of the tree, a hostile .gitmodules; before and after, the same is around."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    write(repository, "word")
    (repository.work / "src" / "leak").symlink_to(outside)
    modules = '[submodule "x"]\n\tpath = ../../outside\n\turl = ../x\n'
    repository.commit({".gitmodules": modules})
    reply = server.create(file("evil", server.git_http.url()), tmp_path)
    assert reply.status == 400
    assert "the symbolic link 'src/leak' leaves the repository" in reply.detail
    assert not (server.data_dir / "evil").exists()
    (repository.work / "src" / "leak").unlink()
    repository.commit({})
    assert server.create(file("tame", server.git_http.url()), tmp_path).status == 200
    assert server.request("DELETE", "/deployments/tame").status == 200
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert not (server.data_dir / "tame").exists()


def test_what_a_killed_server_left_of_a_fetch_is_removed(start_server: Any, tmp_path: Path) -> None:
    """A private key may be in it."""
    left = tmp_path / "data" / "killed" / "work" / "1" / "say0" / ".git-fetch"
    left.mkdir(parents=True)
    (left / "key").write_text("a private key")
    (tmp_path / "data" / "killed" / ".llamadeploy").touch()
    other = tmp_path / "data" / "other" / "work" / "1" / "say0" / ".git-fetch"
    other.mkdir(parents=True)  # not a folder of ours: it has no mark
    start_server(tmp_path / "data").stop()
    assert not left.exists()
    assert other.exists()
