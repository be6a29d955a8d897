"""Runs the commands of docs/quickstart.md and compares what they print (``...`` stands for any)."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "quickstart.md"
FENCE = re.compile(r"^```(\w+)( serve)?\n(.*?)^```$", re.M | re.S)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def matches(expected: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.S) is not None


@contextmanager
def served(command: str, expected: str, env: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen(
            f"exec {command}",
            shell=True,
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert server.stdout is not None
            lines = [server.stdout.readline() for _ in expected.strip().splitlines()]
            assert matches(expected, "".join(lines)), (folder / "serve.log").read_text()
            yield
        finally:
            server.terminate()
            server.wait(timeout=30)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of the test's own, with a profile that points to the test's port."""
    port = free_port()
    config = tmp_path / "xdg" / "llamactl" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f"current_profile: default\nprofiles: {{default: {{server: 'http://127.0.0.1:{port}'}}}}\n"
    )
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "LLAMA_DEPLOY_APISERVER_PORT": str(port),
        "LLAMA_DEPLOY_API_SERVER_URL": f"http://127.0.0.1:{port}",
        "PORT": str(port),
    }


def test_the_commands_print_what_the_document_shows(env: dict[str, str], tmp_path: Path) -> None:
    text = DOCUMENT.read_text().replace("127.0.0.1:4501", f"127.0.0.1:{env['PORT']}")
    blocks = [match.groups() for match in FENCE.finditer(text)]
    consoles = [(bool(serve), *body.split("\n", 1)) for kind, serve, body in blocks
                if kind == "console"]  # fmt: skip
    assert sum(serve for serve, *_ in consoles) == 1
    before = [block for block in consoles if block[1].startswith("$ llamactl init")]
    (serving,) = [block for block in consoles if block[0]]
    after = consoles[consoles.index(serving) + 1 :]
    for _, command, expected in before:
        check(command, expected, env, tmp_path)
    with served(serving[1].removeprefix("$ "), serving[2], env, tmp_path):
        for _, command, expected in after:
            check(command, expected, env, tmp_path)
        (code,) = [body for kind, _, body in blocks if kind == "python"]
        (shown,) = [body for kind, _, body in blocks if kind == "text"]
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert matches(shown, ran.stdout), ran.stdout + ran.stderr


def check(command: str, expected: str, env: dict[str, str], folder: Path) -> None:
    ran = subprocess.run(
        command.removeprefix("$ "), shell=True, cwd=folder, env=env, capture_output=True, text=True
    )
    printed = ran.stdout + (ran.stderr if ran.returncode else "")
    assert matches(expected, printed), f"{command} printed:\n{printed}{ran.stderr}"
