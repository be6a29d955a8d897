"""Commands of the documentation, and servers to try them on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llamadeploy import Client

ROOT = Path(__file__).parents[2]

# `docs.site` and `release` are of the repository, not of the distribution.
sys.path.append(str(ROOT))


@pytest.fixture
def block() -> Callable[[str, str], str]:
    """``block("backup.md", "sh backup-redis")``: the text of the one code block of that name."""

    def find(document: str, name: str) -> str:
        text = (ROOT / "docs" / document).read_text()
        (found,) = re.findall(rf"^```{re.escape(name)}\n(.*?)^```$", text, re.M | re.S)
        return str(found)

    return find


@pytest.fixture
def type_commands(environ: dict[str, str], tmp_path: Path, block: Any) -> Callable[..., str]:
    """``type_commands("backup.md", "sh backup-redis", REDIS=uri)`` runs each line behind ``$`` and
    gives what they print; variables as in the text."""

    def run(document: str, name: str, **variables: object) -> str:
        lines = [line[2:] for line in block(document, name).splitlines() if line.startswith("$ ")]
        assert lines, "no command"
        printed = ""
        for line in lines:
            env = environ | {key: str(value) for key, value in variables.items()}
            done = subprocess.run(
                ["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True,
                timeout=300,
            )  # fmt: skip
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            printed += done.stdout
        return printed

    return run


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Our commands first, and a home of the tests' own."""
    home = tmp_path_factory.mktemp("home")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("LLAMA")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "XDG_DATA_HOME": str(home),
    }


@dataclass(frozen=True)
class Server:
    """``llamactl serve``.

    Attributes:
        url: of its API.
    """

    url: str
    environ: dict[str, str]

    def deployment(self, name: str) -> Any:
        """Of the SDK, synchronous."""
        return Client(api_server_url=self.url).sync.apiserver.deployments.get(name)

    def llamactl(self, *arguments: str | Path, check: bool = True) -> str:
        """What the command prints; where it may fail, errors as well."""
        command = ["llamactl", "--server", self.url, *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout if check else done.stdout + done.stderr


@pytest.fixture(scope="session")
def serve(environ: dict[str, str]) -> Callable[..., Any]:
    """``serve(data_dir, file=None, **variables)``: a context manager with a running server."""

    @contextmanager
    def run(folder: Path, file: Path | None = None, **variables: str) -> Iterator[Server]:
        command = ["llamactl", "serve", *([str(file)] if file else []), "--port", "0"]
        log = folder.with_name(f"{folder.name}.log")
        with log.open("w") as output:
            server = subprocess.Popen(
                [*command, "--data-dir", str(folder)], env={**environ, **variables},
                cwd=log.parent, stdout=subprocess.PIPE, stderr=output, text=True,
            )  # fmt: skip
            try:
                assert server.stdout is not None
                line = server.stdout.readline()
                assert line, log.read_text()
                yield Server(line.split()[-1], environ)
            finally:
                server.terminate()
                server.wait(timeout=60)

    return run
