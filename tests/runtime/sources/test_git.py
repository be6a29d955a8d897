"""Source ``git`` over real servers: what is fetched, with what, and what is never shown."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.commands import Cancellation, CommandCancelledError
from llamadeploy.sources.base import FetchedSource, SourceContext, SourceError
from llamadeploy.sources.registry import fetch_source
from llamadeploy.spec.deployment import SourceSpec

TOKEN = "s3cret-tok%40en/value"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LLAMA_DEPLOY_GIT_") or name == "SSH_AUTH_SOCK":
            monkeypatch.delenv(name)


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., FetchedSource]:
    """``fetch(url, ref=None, **fields of the source)`` into ``holder``."""

    def fetch_(url: str, ref: str | None = None, **fields: Any) -> FetchedSource:
        source = SourceSpec(type="git", url=url, ref=ref, **fields)
        return fetch_source(source, tmp_path / "holder", SourceContext(tmp_path))

    return fetch_


def everything_below(folder: Path) -> str:
    """Names and contents of all files."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return "\n".join(f"{path}\n{path.read_bytes()!r}" for path in paths)


def command_lines() -> str:
    """What `ps` shows of every process, with the environments of git, ssh and sh."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "cmdline").read_bytes().decode(errors="replace"))
            if (process / "comm").read_text().startswith(("git", "ssh", "sh", "cat")):
                found.append((process / "environ").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


@pytest.mark.parametrize(
    ("ref", "commit"),
    [
        (None, "main"), ("main", "main"), ("feature/x", "branch"), ("v1", "tagged"),
        ("v1-note", "tagged"), ("refs/heads/feature/x", "branch"), ("refs/tags/v1", "tagged"),
    ],
)  # fmt: skip
def test_branches_and_tags(
    fetch: Any, git_http: Any, history: dict[str, str], repository: Any, ref: str, commit: str
) -> None:
    found = fetch(git_http.url(), ref)
    assert found.origin == {
        "type": "git", "url": git_http.url(), "ref": ref or "", "commit": history[commit],
    }  # fmt: skip
    version = repository.git("show", f"{history[commit]}:workflow.py")
    assert (found.root / "workflow.py").read_text().strip() == version
    assert found.root.name == "code"


@pytest.mark.parametrize("length", [40, 12, 7])
@pytest.mark.parametrize("newest_protocol", [True, False])
def test_commits_that_no_ref_points_to(
    fetch: Any, start_git_http: Any, history: dict[str, str], length: int, newest_protocol: bool
) -> None:
    """The older protocol offers no single commit: everything is fetched then."""
    server = start_git_http(newest_protocol=newest_protocol)
    found = fetch(server.url(), history["second"][:length])
    assert found.origin["commit"] == history["second"]
    assert (found.root / "workflow.py").read_text() == "version = 2\n"
    assert (found.root / "package" / "a.py").exists()


@pytest.mark.parametrize("ref", ["v1", None, "second"])
def test_a_server_of_plain_files_is_fetched_whole(
    fetch: Any, start_git_http: Any, history: dict[str, str], repository: Any, ref: str | None
) -> None:
    """It knows no shallow fetch."""
    repository.git("--git-dir", str(repository.path), "update-server-info")
    ref = history["second"] if ref == "second" else ref
    found = fetch(start_git_http(plain=True).url(), ref)
    assert found.origin["commit"] in history.values()


def test_a_file_url(fetch: Any, history: dict[str, str], repository: Any) -> None:
    assert fetch(f"file://{repository.path}", "v1").origin["commit"] == history["tagged"]


def test_a_branch_wins_over_a_tag_and_a_commit(fetch: Any, git_http: Any, repository: Any) -> None:
    first = repository.commit({"a.py": "1"})
    repository.git("tag", "same")
    second = repository.commit({"a.py": "2"})
    repository.git("branch", "same")
    repository.git("branch", first[:8])
    repository.push()
    assert fetch(git_http.url(), "same").origin["commit"] == second


def test_only_the_files_are_left(fetch: Any, git_http: Any, history: Any, tmp_path: Path) -> None:
    fetch(git_http.url())
    names = sorted(str(path.relative_to(tmp_path / "holder"))
                   for path in (tmp_path / "holder").rglob("*"))  # fmt: skip
    assert names == ["code", "code/package", "code/package/a.py", "code/workflow.py"]


def test_a_new_commit_is_fetched(
    fetch: Any, git_http: Any, repository: Any, tmp_path: Path
) -> None:
    repository.commit({"a.py": "1"})
    fetch(git_http.url(), "main")
    (tmp_path / "holder").rename(tmp_path / "before")
    commit = repository.commit({"a.py": "2"})
    assert fetch(git_http.url(), "main").origin["commit"] == commit


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("mian", "no branch or tag 'mian'; the nearest are: main"),
        ("feature/y", "the nearest are: feature/x"),
        ("zzz", "there are: feature/x, main, v1, v1-note"),
        ("0123456789", "no commit '0123456789' on any branch or tag"),
        ("0" * 40, "there is no commit '0000"),
        ("--upload-pack=x", "cannot be a git ref"),
        ("a b", "cannot be a git ref"),
        ("v1^{tree}", "cannot be a git ref"),
        ("refs/heads/none", "no branch or tag 'refs/heads/none'"),
    ],
)
def test_what_is_not_there_is_named(
    fetch: Any, git_http: Any, history: Any, ref: str, message: str
) -> None:
    with pytest.raises(SourceError) as error:
        fetch(git_http.url(), ref)
    assert message in str(error.value)


def test_an_empty_repository_is_said(fetch: Any, git_http: Any, repository: Any) -> None:
    with pytest.raises(SourceError, match="no default branch; push a commit"):
        fetch(git_http.url())


def test_a_missing_repository_is_said(fetch: Any, git_http: Any, repository: Any) -> None:
    with pytest.raises(SourceError, match="there is no such repository"):
        fetch(git_http.url(name="other.git"))


def test_an_unreachable_host_is_said(fetch: Any) -> None:
    with pytest.raises(SourceError, match=r"'127\.0\.0\.1:1' cannot be reached; check the host"):
        fetch("http://127.0.0.1:1/x.git")


# -- token ---------------------------------------------------------------------------------------


def from_the_environment(monkeypatch: pytest.MonkeyPatch, server: Any) -> dict[str, Any]:
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_TOKEN", TOKEN)
    return {"url": server.url()}


def from_the_source(monkeypatch: pytest.MonkeyPatch, server: Any) -> dict[str, Any]:
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_TOKEN", "another")
    return {"url": server.url(), "credentials": {"username": "me", "password": TOKEN}}


def from_the_url(monkeypatch: pytest.MonkeyPatch, server: Any) -> dict[str, Any]:
    return {"url": server.url("me:s3cret-tok%2540en%2Fvalue")}


def as_the_user(monkeypatch: pytest.MonkeyPatch, server: Any) -> dict[str, Any]:
    return {"url": server.url(), "credentials": {"username": TOKEN}}


@pytest.mark.parametrize(
    "given", [from_the_environment, from_the_source, from_the_url, as_the_user]
)
def test_a_token_opens_the_repository_and_is_nowhere_to_be_seen(
    fetch: Any, start_git_http: Any, history: dict[str, str], given: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[str] = []
    server = start_git_http(token=TOKEN)
    server.watch = lambda: seen.append(command_lines() + everything_below(tmp_path / "holder"))
    found = fetch(ref=history["second"][:9], **given(monkeypatch, server))
    assert found.origin["commit"] == history["second"]
    assert len(seen) >= 2
    assert any("git-remote-http" in each for each in seen)
    for text in (*seen, everything_below(tmp_path / "holder"), repr(found)):
        assert TOKEN not in text
        assert "s3cret" not in text


@pytest.mark.parametrize("token", [None, "wrong-token"])
def test_a_missing_or_wrong_token_is_said_and_not_shown(
    fetch: Any, start_git_http: Any, history: Any, token: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server = start_git_http(token=TOKEN, refusal=f"the token {token} is \x1b[31mwrong")
    if token:
        monkeypatch.setenv("LLAMA_DEPLOY_GIT_TOKEN", token)
    with pytest.raises(SourceError) as error:
        fetch(server.url())
    text = str(error.value)
    if token:
        assert "does not accept the user and token" in text
    else:
        assert "set LLAMA_DEPLOY_GIT_TOKEN" in text
    assert "wrong-token" not in text
    assert "\x1b" not in text


def test_the_token_goes_to_named_hosts_only(
    fetch: Any,
    start_git_http: Any,
    history: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start_git_http(token=TOKEN)
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_TOKEN", TOKEN)
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_TOKEN_HOSTS", "git.example.com")
    with pytest.raises(SourceError, match="asks for a login"):
        fetch(server.url())
    assert server.logins == []
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_TOKEN_HOSTS", f"git.example.com, 127.0.0.1:{server.port}")
    (tmp_path / "holder").rmdir()
    assert fetch(server.url()).origin["type"] == "git"


def test_a_redirect_to_another_host_gets_no_token(
    fetch: Any, start_git_http: Any, history: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    thief = start_git_http(token="never")
    server = start_git_http(redirect=f"http://127.0.0.1:{thief.port}")
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_TOKEN", TOKEN)
    with pytest.raises(SourceError):
        fetch(server.url())
    assert thief.requests
    assert thief.logins == []


# -- SSH -----------------------------------------------------------------------------------------


def test_a_key_of_the_source(
    fetch: Any, git_ssh: Any, history: dict[str, str], repository: Any, tmp_path: Path
) -> None:
    key = git_ssh.key.read_text()
    credentials = {"ssh-privatekey": key, "known_hosts": git_ssh.known_hosts}
    found = fetch(git_ssh.url(repository.path), "feature/x", credentials=credentials)
    assert found.origin["commit"] == history["branch"]
    assert key.splitlines()[1] not in everything_below(tmp_path / "holder")


@pytest.mark.parametrize("ref", ["v1", None, "second"])
def test_a_key_of_the_environment(
    fetch: Any, git_ssh: Any, history: dict[str, str], repository: Any, ref: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_SSH_KEY_FILE", str(git_ssh.key))
    ref = history["second"] if ref == "second" else ref
    found = fetch(git_ssh.url(repository.path), ref, known_hosts=git_ssh.known_hosts)
    assert found.origin["commit"] in history.values()


def test_an_agent(
    fetch: Any, git_ssh: Any, ssh_agent: Any, history: dict[str, str], repository: Any,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SSH_AUTH_SOCK", ssh_agent(git_ssh.key))
    (tmp_path / "known hosts").write_text(git_ssh.known_hosts)
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_KNOWN_HOSTS", str(tmp_path / "known hosts"))
    assert fetch(git_ssh.url(repository.path)).origin["commit"] == history["main"]


def test_an_unknown_host_key_is_refused(
    fetch: Any, git_ssh: Any, history: Any, repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_SSH_KEY", git_ssh.key.read_text())
    with pytest.raises(SourceError) as error:
        fetch(git_ssh.url(repository.path))
    text = str(error.value)
    assert f"the host key of '127.0.0.1:{git_ssh.port}' is not known" in text
    assert f"ssh-keyscan -p {git_ssh.port} 127.0.0.1" in text
    assert "LLAMA_DEPLOY_GIT_KNOWN_HOSTS" in text


def test_a_changed_host_key_is_refused(
    fetch: Any, git_ssh: Any, history: Any, repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_SSH_KEY", git_ssh.key.read_text())
    other = git_ssh.make_key("other").with_suffix(".pub").read_text()
    with pytest.raises(SourceError, match="is not the one that is known; somebody may be"):
        fetch(git_ssh.url(repository.path), known_hosts=f"[127.0.0.1]:{git_ssh.port} {other}")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("stranger", "the host does not accept the key; add its public half"),
        ("locked", "the SSH key has a passphrase"),
        ("damaged", "the private key cannot be read"),
    ],
)
def test_a_wrong_key_is_said_and_not_shown(
    fetch: Any, git_ssh: Any, history: Any, repository: Any, key: str, message: str
) -> None:
    path = git_ssh.make_key(key, "passphrase" if key == "locked" else "")
    text = path.read_text() if key != "damaged" else path.read_text()[:90]
    with pytest.raises(SourceError, match=message) as error:
        fetch(
            git_ssh.url(repository.path), known_hosts=git_ssh.known_hosts,
            credentials={"ssh-privatekey": text},
        )  # fmt: skip
    assert text.splitlines()[1] not in str(error.value)


# -- the rest ------------------------------------------------------------------------------------


def test_a_fetch_can_be_cancelled(start_git_http: Any, history: Any, tmp_path: Path) -> None:
    server = start_git_http(hold=threading.Event())
    cancellation = Cancellation()
    context = SourceContext(tmp_path, cancellation=cancellation)
    problems: list[BaseException] = []

    def run() -> None:
        try:
            fetch_source(SourceSpec(type="git", url=server.url()), tmp_path / "holder", context)
        except CommandCancelledError as error:
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert server.held.wait(10)
    cancellation.cancel()
    thread.join(10)
    assert len(problems) == 1
    assert list((tmp_path / "holder").iterdir()) == []
    server.hold.set()


def test_a_host_that_does_not_answer_is_given_up(
    fetch: Any, start_git_http: Any, history: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_git_http(hold=threading.Event())
    monkeypatch.setenv("LLAMA_DEPLOY_GIT_TIMEOUT", "0.5")
    with pytest.raises(SourceError, match=r"git took longer than 0\.5 s; set LLAMA_DEPLOY_GIT_TIM"):
        fetch(server.url())
    server.hold.set()


def test_configuration_around_it_changes_nothing(
    fetch: Any, git_http: Any, history: dict[str, str], repository: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Neither the user's, nor the environment's, nor that of a repository around it."""
    evil = tmp_path / "evil"
    (tmp_path / "home").mkdir()
    configuration = (
        f'[url "file:///nowhere/"]\n\tinsteadOf = "http://"\n'
        f'[core]\n\tfsmonitor = "touch {evil}"\n\thooksPath = {tmp_path / "hooks"}\n'
        f'[credential]\n\thelper = "!touch {evil}; false"\n'
    )
    (tmp_path / "home" / ".gitconfig").write_text(configuration)
    repository.git("init", "--quiet", str(tmp_path))
    (tmp_path / ".git" / "config").write_text(configuration)
    for name, value in {
        "HOME": str(tmp_path / "home"), "GIT_TRACE": str(evil), "GIT_CURL_VERBOSE": "1",
        "GIT_DIR": str(tmp_path / ".git"), "GIT_SSH_COMMAND": f"touch {evil}",
        "GIT_ASKPASS": f"touch {evil}", "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": f"touch {evil}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert fetch(git_http.url()).origin["commit"] == history["main"]
    assert not evil.exists()


def test_no_git_is_said(fetch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="git is not installed on the server's machine"):
        fetch("http://127.0.0.1:1/x.git")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TIMEOUT", "soon", "LLAMA_DEPLOY_GIT_TIMEOUT: got 'soon'; set it to seconds"),
        ("TIMEOUT", "-1", "LLAMA_DEPLOY_GIT_TIMEOUT: got '-1'"),
        ("KNOWN_HOSTS", "/nowhere", "LLAMA_DEPLOY_GIT_KNOWN_HOSTS: the file '/nowhere' cannot"),
        ("SSH_KEY_FILE", "/nowhere", "LLAMA_DEPLOY_GIT_SSH_KEY_FILE: the file '/nowhere' cannot"),
    ],
)
def test_a_wrong_setting_is_named(
    fetch: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"LLAMA_DEPLOY_GIT_{name}", value)
    with pytest.raises(SourceError) as error:
        fetch("http://127.0.0.1:1/x.git")
    assert message in str(error.value)
