"""What the fixtures of all brokers and stores are made of."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from llamadeploy.testing import free_port as free_port

T = TypeVar("T")


def require(package: str, find: Callable[[], T | None], cure: str) -> T:
    """What ``find`` finds; installed where we may, else the test is skipped (in CI: fails)."""
    found = find()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(package, find)
        found = find()
    if found is not None:
        return found
    message = f"{package} is not installed: {cure}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def _install(package: str, find: Callable[[], object | None]) -> None:
    lock = Path(tempfile.gettempdir()) / "llamadeploy-tests-apt.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if find() is not None:
            return
        # RUNLEVEL=1: the package's scripts start no system instance that nobody here wants.
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        run = ["apt-get", "install", "-y", "--no-install-recommends", package]
        for command in (["apt-get", "update"], run):
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.fail(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
        for command in (["service", package, "stop"], ["systemctl", "disable", package]):
            if shutil.which(command[0]):
                subprocess.run(command, capture_output=True, check=False)


def end_with_us() -> None:
    """In a child: a test run that is killed leaves no server behind (where the system can do
    that)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def wait_until_up(
    answers: Callable[[], bool],
    process: subprocess.Popen[bytes] | None,
    log: Path,
    seconds: float,
) -> None:
    """Return once it answers; the log's end is the failure of one that ends or takes too long."""
    deadline = time.monotonic() + seconds
    while not answers():
        if process is None or process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(log.read_text()[-3000:])
        time.sleep(0.02)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate of 127.0.0.1 that it signed itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: it makes the server's certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
        "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o644)
    return key, certificate
