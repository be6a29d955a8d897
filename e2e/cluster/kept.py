"""A cluster that stays: ``python -m e2e.cluster up`` and ``down``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.build import cache_folder, cluster_binary, dns_binary

START_SECONDS = 180.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Kept:
    """What others need of it.

    Attributes:
        pid: of the process that holds it.
        folder: with its logs.
        socket: containerd's.
    """

    name: str
    pid: int
    folder: Path
    kubeconfig: Path
    socket: Path

    @staticmethod
    def file(name: str) -> Path:
        """Where it is noted down."""
        folder = cache_folder() / "clusters"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.json"

    @classmethod
    def find(cls, name: str) -> Kept:
        """The one that runs.

        Raises:
            LookupError: there is none.
        """
        path = cls.file(name)
        if not path.exists():
            raise LookupError(f"no cluster {name!r}: python -m e2e.cluster up --name {name}")
        body: dict[str, Any] = json.loads(path.read_text())
        paths = {key: Path(body[key]) for key in ("folder", "kubeconfig", "socket")}
        found = cls(name, body["pid"], **paths)
        if not alive(found.pid):
            raise LookupError(f"the cluster {name!r} has ended; see {found.folder}")
        return found


def alive(pid: int) -> bool:
    """Whether there is such a process; one that nobody has waited for is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def up(name: str) -> Kept:
    """Start one in a process of its own that outlives this one.

    Raises:
        AssertionError: it does not become ready; says why.
    """
    programs = cluster_binary(_say), dns_binary(_say)
    folder = Path(tempfile.mkdtemp(prefix="ldep-"))
    log = folder / "cluster.log"
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with log.open("wb") as output, Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        _hold(name, folder, programs)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, f"it did not start:\n{log.read_text()}"
        if Kept.file(name).exists():
            return Kept.find(name)
        time.sleep(0.1)
    raise AssertionError(f"not ready within {START_SECONDS:g} s; see {log}")


def down(name: str) -> None:
    """End it with all that it has.

    Raises:
        LookupError: there is none.
    """
    found = Kept.find(name)
    os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while alive(found.pid):
        if time.monotonic() > deadline:
            raise LookupError(f"process {found.pid} does not end; see {found.folder}")
        time.sleep(0.1)


def _hold(name: str, folder: Path, programs: tuple[Path, Path]) -> None:
    from e2e.cluster.node import LocalCluster

    cluster = LocalCluster(*programs, folder)
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    code = 1
    try:
        cluster.start()
        body = {
            "pid": os.getpid(), "folder": str(folder), "kubeconfig": str(cluster.kubeconfig),
            "socket": str(cluster.socket),
        }  # fmt: skip
        part = Kept.file(name).with_suffix(".part")
        part.write_text(json.dumps(body))
        part.replace(Kept.file(name))
        told.wait()
        code = 0
    finally:
        Kept.file(name).unlink(missing_ok=True)
        cluster.stop()
        if code == 0:
            shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.flush()
        os._exit(code)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
