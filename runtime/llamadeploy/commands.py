"""Runs external programs: each in a process group of its own, with a time limit, cancellable, its
output bounded. Blocking: for threads."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from llamadeploy.exceptions import LlamaDeployError

MAX_OUTPUT = 64 * 1024 * 1024
"""Bytes of standard output that :func:`run_command` keeps: 500,000 refs of a repository."""

TAIL_LINES = 40
MAX_LINE = 2_000
"""Bounds of what is kept of the error output."""

_READ_SECONDS = 1.0
"""How long a grandchild that outlives its parent may keep the error output open."""


class CommandCancelledError(LlamaDeployError):
    """Whoever waited for the command does not any more; the command was ended."""


class CommandTimeoutError(LlamaDeployError):
    """The command took longer than its time limit, and was ended."""


class Cancellation:
    """Lets one thread end what another one waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """End the running commands, and let no other one start. Idempotent."""
        with self._lock:
            self._event.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raise :class:`CommandCancelledError` once it was cancelled."""
        if self._event.is_set():
            raise CommandCancelledError("it was cancelled")

    def wait(self, seconds: float) -> None:
        """Sleep; :class:`CommandCancelledError` as soon as it is cancelled."""
        self._event.wait(seconds)
        self.check()

    @contextlib.contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call ``callback``, from the cancelling thread, when it is cancelled within."""
        with self._lock:
            self.check()
            self._callbacks.append(callback)
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """How a command ended: its exit code, its standard output and its last lines of errors."""

    code: int
    stdout: bytes = field(repr=False)
    errors: tuple[str, ...] = field(repr=False)


class RunningCommand:
    """A started command; made by :func:`start_command`."""

    def __init__(
        self, process: subprocess.Popen[bytes], on_line: Callable[[str], None] | None
    ) -> None:
        self._process = process
        self._ended_by = ""
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._on_line = on_line
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()

    @property
    def stdout(self) -> IO[bytes]:
        """Its standard output."""
        assert self._process.stdout is not None  # noqa: S101 - it was started with a pipe
        return self._process.stdout

    def kill(self, why: str) -> None:
        """End it with everything that it started."""
        if self._process.poll() is None:
            self._ended_by = self._ended_by or why
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def finish(self) -> tuple[int, tuple[str, ...]]:
        """Wait for its end; the exit code and the last lines of its errors.

        Raises:
            CommandCancelledError, CommandTimeoutError: that is why it ended.
        """
        code = self._process.wait()
        self._reader.join(_READ_SECONDS)
        if self._ended_by == "cancel":
            raise CommandCancelledError("it was cancelled")
        if self._ended_by == "timeout":
            raise CommandTimeoutError("it took too long")
        return code, tuple(self._lines)

    def close(self) -> None:
        """End it if it still runs, and its pipes."""
        self.kill("close")
        self._process.wait()
        self._reader.join(_READ_SECONDS)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None and not self._reader.is_alive():
                pipe.close()

    def _read_lines(self) -> None:
        pipe = self._process.stderr or self.stdout
        while line := pipe.readline(MAX_LINE):
            # Progress bars end their lines with \r; only what stands last was meant to stay.
            text = line.decode("utf-8", "replace").rstrip().rpartition("\r")[2]
            text = "".join(each for each in text if each.isprintable() or each == "\t")
            if text:
                self._lines.append(text)
                if self._on_line is not None:
                    self._on_line(text)


@contextlib.contextmanager
def start_command(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    timeout: float,
    cancellation: Cancellation,
    stdin: IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    on_line: Callable[[str], None] | None = None,
    merge: bool = False,
) -> Iterator[RunningCommand]:
    """Start a program; within, its ``stdout`` can be read. It is ended at the latest on leaving.

    Args:
        env: its whole environment.
        timeout: seconds until it is ended.
        on_line: gets each line of its error output as it comes, from another thread.
        merge: take the standard output's lines for error output; ``stdout`` cannot be read then.

    Raises:
        OSError: it cannot be started.
        CommandCancelledError: ``cancellation`` was cancelled before.
    """
    cancellation.check()
    process = subprocess.Popen(  # noqa: S603 - callers say which program
        list(argv),
        env=dict(env),
        cwd=cwd,
        stdin=stdin or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merge else subprocess.PIPE,
        pass_fds=pass_fds,
        start_new_session=True,
    )
    command = RunningCommand(process, on_line)
    timer = threading.Timer(timeout, command.kill, ["timeout"])
    timer.daemon = True
    timer.start()
    try:
        with cancellation.calling(lambda: command.kill("cancel")):
            yield command
    finally:
        timer.cancel()
        command.close()


def run_command(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    timeout: float,
    cancellation: Cancellation,
    pass_fds: Sequence[int] = (),
) -> CommandOutput:
    """Run a program to its end; see :func:`start_command`.

    Raises:
        OSError: it cannot be started.
        CommandCancelledError: ``cancellation`` was cancelled.
        CommandTimeoutError: it took longer than ``timeout`` seconds.
    """
    with start_command(
        argv, env=env, cwd=cwd, timeout=timeout, cancellation=cancellation, pass_fds=pass_fds
    ) as command:
        stdout = command.stdout.read(MAX_OUTPUT)
        while command.stdout.read(1 << 16):
            pass  # the rest is dropped, but not left in the pipe, where it would block the command
        code, errors = command.finish()
    return CommandOutput(code, stdout, errors)
