"""What several packages' tests share: real git servers, over HTTP with a login and over SSH, and
repositories for them; packages and an index; `llamactl serve` for its clients."""

from __future__ import annotations

import base64
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

IDENTITY = {
    "GIT_AUTHOR_NAME": "Test", "GIT_AUTHOR_EMAIL": "test@example.com",
    "GIT_COMMITTER_NAME": "Test", "GIT_COMMITTER_EMAIL": "test@example.com",
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip


ENVIRON = {**os.environ, **IDENTITY}
"""As it was before any test changed it: servers must not see what a test sets for the client."""


def git(folder: Path, *arguments: str, stdin: bytes | None = None) -> str:
    """Run git in a folder; its output."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=ENVIRON, input=stdin,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


class Repository:
    """A repository with a working tree, and the bare one ``path`` that is served."""

    def __init__(self, served: Path, work: Path) -> None:
        self.path, self.work = served, work
        if not work.exists():
            work.mkdir(parents=True)
            git(work, "init", "--quiet", "-b", "main")
            git(work.parent, "init", "--quiet", "--bare", "-b", "main", str(served))
            git(work, "remote", "add", "origin", "../../served/code.git")

    def git(self, *arguments: str, stdin: bytes | None = None) -> str:
        return git(self.work, *arguments, stdin=stdin)

    def commit(self, files: dict[str, str]) -> str:
        """Write the files, commit them, and push every branch and tag; the commit."""
        for name, text in files.items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "--quiet", "--allow-empty", "-m", "change")
        return self.push()

    def push(self) -> str:
        self.git("push", "--quiet", "--force", "--all", "origin")
        self.git("push", "--quiet", "--force", "--tags", "origin")
        return self.git("rev-parse", "HEAD")


@pytest.fixture(scope="session")
def repository_template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a repository, and its commits by name; ``tagged`` has the tags ``v1`` and
    ``v1-note``, ``branch`` is the tip of ``feature/x``, ``second`` that of nothing."""
    folder = tmp_path_factory.mktemp("template")
    repository = Repository(folder / "served" / "code.git", folder / "work" / "code")
    commits = {"tagged": repository.commit({"workflow.py": "version = 1\n"})}
    repository.git("tag", "v1")
    repository.git("tag", "-a", "v1-note", "-m", "annotated")
    commits["second"] = repository.commit({"workflow.py": "version = 2\n", "package/a.py": ""})
    repository.git("checkout", "--quiet", "-b", "feature/x")
    commits["branch"] = repository.commit({"workflow.py": "version = 'x'\n"})
    repository.git("checkout", "--quiet", "main")
    commits["main"] = repository.commit({"workflow.py": "version = 3\n"})
    return folder, commits


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository, served as ``served/code.git``: empty, or with ``history``."""
    (tmp_path / "served").mkdir(exist_ok=True)
    return Repository(tmp_path / "served" / "code.git", tmp_path / "work" / "code")


@pytest.fixture
def history(tmp_path: Path, repository_template: tuple[Path, dict[str, str]]) -> dict[str, str]:
    """Fill ``repository``, which must be asked for after this; its commits by name."""
    folder, commits = repository_template
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return commits


@dataclass
class GitHttpServer:
    """``git http-backend`` behind a login.

    Attributes:
        token: the only password that is let in; ``None``: no login.
        plain: serve the repository's files, without git: the "dumb" protocol.
        newest_protocol: speak version 2; the older one refuses commits that no ref points to.
        logins: every ``user:password`` that came.
        watch: called with each request that has a login.
        refusal: the body of the answer to a wrong login.
        hold: while set to an unset event, requests wait for it.
    """

    folder: Path
    token: str | None = None
    plain: bool = False
    newest_protocol: bool = True
    logins: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    watch: Callable[[], None] = lambda: None
    refusal: str = "no"
    redirect: str | None = None
    hold: threading.Event | None = None
    held: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def url(self, login: str = "", name: str = "code.git") -> str:
        return f"http://{login}{'@' if login else ''}127.0.0.1:{self.port}/{name}"


class _GitRequest(BaseHTTPRequestHandler):
    server: Any

    def _serve(self) -> None:
        git_server: GitHttpServer = self.server.git_server
        git_server.requests.append(self.path)
        if git_server.redirect is not None:
            self._answer(302, b"", Location=git_server.redirect + self.path)
            return
        login = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic "))
        if login:
            git_server.logins.append(login.decode())
            git_server.watch()
        if git_server.hold is not None:
            git_server.held.set()
            git_server.hold.wait(30)
        password = login.decode().partition(":")[2] or login.decode().partition(":")[0]
        if git_server.token is not None and password != git_server.token:
            body = git_server.refusal.encode()
            self._answer(401, body, **{"WWW-Authenticate": 'Basic realm="git"'})
            return
        if git_server.plain:
            file = git_server.folder / self.path.partition("?")[0].lstrip("/")
            found = file.is_file()
            self._answer(200 if found else 404, file.read_bytes() if found else b"")
            return
        self._run_backend(git_server)

    do_GET = do_POST = _serve

    def _run_backend(self, git_server: GitHttpServer) -> None:
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length", 0))
        environ = {
            **ENVIRON, "GIT_PROJECT_ROOT": str(git_server.folder),
            "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
            "REQUEST_METHOD": self.command, "CONTENT_LENGTH": str(length),
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "REMOTE_ADDR": "127.0.0.1",
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }  # fmt: skip
        if git_server.newest_protocol:
            environ["GIT_PROTOCOL"] = self.headers.get("Git-Protocol", "")
        done = subprocess.run(
            ["git", "http-backend"], input=self.rfile.read(length), env=environ,
            capture_output=True, check=False,
        )  # fmt: skip
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        status = int(headers.pop("Status", "200").split()[0])
        self._answer(status, body, **headers)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in {"Content-Type": "text/plain", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def start_git_http(tmp_path: Path) -> Iterator[Callable[..., GitHttpServer]]:
    """Start a server of ``served``; keyword arguments are :class:`GitHttpServer`'s."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> GitHttpServer:
            git_server = GitHttpServer(tmp_path / "served", **options)
            http = ThreadingHTTPServer(("127.0.0.1", 0), _GitRequest)
            http.daemon_threads = True
            http.git_server = git_server  # type: ignore[attr-defined]
            git_server.port = http.server_address[1]
            thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(http.server_close)
            stack.callback(http.shutdown)
            return git_server

        yield start


@pytest.fixture
def git_http(start_git_http: Callable[..., GitHttpServer]) -> GitHttpServer:
    """A server without a login."""
    return start_git_http()


class SshServer:
    """OpenSSH's sshd as this user: one process per connection, handed an accepted socket."""

    def __init__(self, folder: Path, sshd: str) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.key = self.make_key("user")
        host_key = self.make_key("host")
        (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
        (folder / "config").write_text(
            f"HostKey {host_key}\nAuthorizedKeysFile {folder / 'authorized_keys'}\n"
            "PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        )
        self._command = [sshd, "-i", "-e", "-f", str(folder / "config")]
        self._log = (folder / "log").open("ab")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def known_hosts(self) -> str:
        return f"[127.0.0.1]:{self.port} {(self.folder / 'host.pub').read_text()}"

    def url(self, path: Path) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{path}"

    def make_key(self, name: str, passphrase: str = "") -> Path:
        path = self.folder / name
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
        subprocess.run(command, check=True)
        return path

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        for process in self._processes:
            process.kill()
            process.wait()
        self._log.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self._processes.append(
                    subprocess.Popen(
                        self._command, stdin=connection, stdout=connection, stderr=self._log
                    )
                )


def find_sshd() -> str:
    """Path of sshd, which must be absolute. In CI it is installed where it is missing."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None and os.environ.get("CI") == "true" and os.geteuid() == 0:
        install = ["apt-get", "install", "-y", "--no-install-recommends", "openssh-server"]
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(["apt-get", "update"], check=True, env=environ, capture_output=True)
        subprocess.run(install, check=True, env=environ, capture_output=True)
        found = "/usr/sbin/sshd"
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("sshd is not there; install openssh-server")
        pytest.skip("sshd is not there; install openssh-server")
    return found


@pytest.fixture
def git_ssh(tmp_path: Path) -> Iterator[SshServer]:
    """An SSH server that lets the key ``user`` in."""
    sshd = find_sshd()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's, which an init script makes
    server = SshServer(tmp_path / "ssh", sshd)
    yield server
    server.stop()


@pytest.fixture
def ssh_agent(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """Start an agent with a key; its socket."""
    with contextlib.ExitStack() as stack:

        def start(key: Path) -> str:
            path = str(tmp_path / "agent")
            process = stack.enter_context(
                subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()  # it says where it listens once it does
            environ = {**os.environ, "SSH_AUTH_SOCK": path}
            subprocess.run(["ssh-add", "-q", str(key)], check=True, env=environ)
            return path

        yield start


def make_wheel(
    folder: Path, name: str, version: str, files: dict[str, str], *requires: str
) -> Path:
    """A wheel, written by hand: nothing is needed to build it."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    info = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, text in {**contents, f"{info}/RECORD": record}.items():
            wheel.writestr(inner, text)
    return path


@pytest.fixture(name="make_wheel", scope="session")
def make_wheel_fixture() -> Callable[..., Path]:
    """``make_wheel(folder, name, version, {path: text}, *requirements)``."""
    return make_wheel


class Index:
    """A package index of files, and the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self.logins: list[str] = []
        self.hold: threading.Event | None = None
        self.held = threading.Event()
        handler = partial(_IndexRequest, directory=str(folder))
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._http.index = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self._http.server_address[1]}/simple/"

    def add(self, wheel: Path) -> None:
        name = wheel.name.partition("-")[0].replace("_", "-")
        folder = self.folder / "simple" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        names = sorted(path.name for path in folder.glob("*.whl"))
        links = "".join(f'<a href="{each}">{each}</a>' for each in names)
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")

    def stop(self) -> None:
        """Idempotent."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _IndexRequest(SimpleHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        index: Index = self.server.index
        index.requests.append(self.path)
        if login := self.headers.get("Authorization"):
            index.logins.append(login)
        if index.hold is not None:
            index.held.set()
            index.hold.wait(30)
        with contextlib.suppress(ConnectionError):  # the installer was ended meanwhile
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def start_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Index]]:
    """Start an index without packages; it is stopped after the module."""
    with contextlib.ExitStack() as stack:

        def start() -> Index:
            server = Index(tmp_path_factory.mktemp("index"))
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def index(start_index: Callable[[], Index]) -> Index:
    """A package index without packages."""
    return start_index()


CLIENT_WORKFLOWS = """
import asyncio, pathlib
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

class Echo(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        print("echoing", ev.get("text"), flush=True)
        return StopEvent(result=f"echo: {ev.get('text')!r}")

class Fail(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        raise ValueError("it went wrong")

class Progress(Event):
    n: int

class Count(Workflow):
    @step
    async def run_(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(int(ev.get("to", 3))):
            ctx.write_event_to_stream(Progress(n=n))
        gate = ev.get("gate")
        while gate and not pathlib.Path(gate).exists():
            await asyncio.sleep(0.01)
        return StopEvent(result="counted")

class Ask(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="name?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=f"hello {ev.response}")

echo, fail, count, ask = Echo(), Fail(), Count(), Ask()
"""

CLIENT_DEPLOYMENT = """
name: {name}
control-plane: {{}}
default-service: echo
services:
  echo: {{name: Echo, source: {{type: local, name: src}}, path: src/workflow:echo}}
  fail: {{name: Fail, source: {{type: local, name: src}}, path: src/workflow:fail}}
  count: {{name: Count, source: {{type: local, name: src}}, path: src/workflow:count}}
  ask: {{name: Ask, source: {{type: local, name: src}}, path: src/workflow:ask}}
"""


class LiveServer:
    """`llamactl serve` as a process; ``folder`` has the source ``src`` of :meth:`file`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "src").mkdir(parents=True)
        (folder / "src" / "workflow.py").write_text(textwrap.dedent(CLIENT_WORKFLOWS))
        self.log = folder / "server.log"
        self.port = 0
        self.start()

    def file(self, name: str) -> Path:
        """A deployment file with the services echo (the default), fail, count and ask."""
        path = self.folder / f"{name}.yaml"
        path.write_text(CLIENT_DEPLOYMENT.format(name=name))
        return path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, at the same port as before, with what was deployed before."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA")}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from llamadeploy.cli import main; main()", "serve",
                 "--port", str(self.port), "--data-dir", str(self.folder / "data")],
                stdout=subprocess.PIPE, stderr=output, text=True, cwd=self.folder, env=environ,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "listens on" in line, self.log.read_text()
        self.port = int(line.split()[-1].rpartition(":")[2])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for the tests of the clients."""
    server = LiveServer(tmp_path_factory.mktemp("live") / "project")
    yield server
    server.stop()
