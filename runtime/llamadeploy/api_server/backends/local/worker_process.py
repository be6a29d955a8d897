"""One worker process: started, watched until it is ready, ended.

The process is the leader of its own group, so that what a workflow starts ends with it. It reads
its settings from the environment alone, and drains when ``LLAMADEPLOY_PARENT_FD`` reaches its end:
that is how workers notice that this server was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from llamadeploy.exceptions import DeploymentError

ARGUMENTS = ("-P", "-m", "llamadeploy", "worker")
"""``-P`` keeps the working directory, a user's source, from shadowing modules of ours."""

TAIL_LINES = 60
MAX_LINE = 4_000
"""Bounds of what is kept of a worker's output: enough for a traceback."""

_OUTPUT_SECONDS = 1.0
"""How long the rest of a dead worker's output is waited for."""


class WorkerEndedError(DeploymentError):
    """The process ended before it was ready; the message has its exit code and last lines."""


class OutputTail:
    """The last lines a process wrote, without secrets.

    Args:
        hide: takes the secrets out of a line.
        forward: gets each line as it comes.
    """

    def __init__(self, hide: Callable[[str], str], forward: Callable[[str], None]) -> None:
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._partial = b""
        self._hide = hide
        self._forward = forward

    def feed(self, data: bytes) -> None:
        """Take what was read; an overlong line is cut into pieces."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE:
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            text = self._hide(line[:MAX_LINE].decode("utf-8", "replace").rstrip())
            self._lines.append(text)
            self._forward(text)

    def close(self) -> None:
        """Take what came last without a line's end."""
        if self._partial:
            self.feed(b"\n")

    def __str__(self) -> str:
        return "\n".join(self._lines)


class WorkerProcess:
    """A running worker; made by :meth:`start`."""

    def __init__(
        self,
        worker_id: str,
        process: asyncio.subprocess.Process,
        parent_fd: int,
        ready_fd: int,
        output: OutputTail,
    ) -> None:
        self.worker_id = worker_id
        self._process = process
        self._parent_fd = parent_fd
        self._output = output
        self._reading = asyncio.create_task(self._read_output(), name=f"output {worker_id}")
        self._ready = asyncio.create_task(_read_ready(ready_fd), name=f"ready {worker_id}")

    @classmethod
    async def start(
        cls,
        worker_id: str,
        environ: Mapping[str, str],
        folder: Path,
        *,
        hide: Callable[[str], str],
        forward: Callable[[str], None],
        python: Path | str = sys.executable,
    ) -> Self:
        """Start a worker with exactly ``environ`` (plus the pipes' numbers) in ``folder``.

        Args:
            python: the interpreter, of an environment that sees this package.

        Raises:
            DeploymentError: the process could not be started at all.
        """
        with contextlib.ExitStack() as on_error:
            parent_read, parent_write = _pipe(on_error)
            ready_read, ready_write = _pipe(on_error)
            pipes = {
                "LLAMADEPLOY_PARENT_FD": str(parent_read),
                "LLAMADEPLOY_READY_FD": str(ready_write),
            }
            try:
                process = await asyncio.create_subprocess_exec(
                    python,
                    *ARGUMENTS,
                    env={**environ, **pipes},
                    cwd=folder,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=(parent_read, ready_write),
                    start_new_session=True,
                )
            except OSError as error:
                raise DeploymentError(f"a worker process cannot be started: {error}") from error
            on_error.pop_all()
        os.close(parent_read)
        os.close(ready_write)
        return cls(worker_id, process, parent_write, ready_read, OutputTail(hide, forward))

    @property
    def pid(self) -> int:
        """The process's id, also its group's."""
        return self._process.pid

    @property
    def output(self) -> str:
        """The last lines it wrote."""
        return str(self._output)

    @property
    def exit_code(self) -> int | None:
        """As of ``subprocess``: negative for a signal; ``None`` while it runs."""
        return self._process.returncode

    async def ready(self) -> None:
        """Return once the worker takes tasks.

        Raises:
            WorkerEndedError: it ended, or gave up its ready pipe, before that.
        """
        if not await asyncio.shield(self._ready):
            await self.wait()
            raise WorkerEndedError(self.describe_end())

    async def wait(self) -> int:
        """Return the exit code once it has ended, its whole group is gone and its output read."""
        code = await self._process.wait()
        self._kill_group()
        await asyncio.wait({self._reading, self._ready}, timeout=_OUTPUT_SECONDS)
        for task in (self._reading, self._ready):
            task.cancel()
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
            self._parent_fd = -1
        return code

    def describe_end(self) -> str:
        """How it ended, with its last lines."""
        code = self.exit_code
        if code is not None and code < 0:
            how = f"was killed by signal {-code} ({signal.strsignal(-code)})"
        else:
            how = f"ended with exit code {code}"
        return f"the worker {how}" + (f":\n{self.output}" if self.output else "")

    def terminate(self) -> None:
        """Ask it to drain and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    async def stop(self, grace: float) -> int:
        """Drain within ``grace`` seconds, then kill; return the exit code."""
        self.terminate()
        try:
            return await asyncio.wait_for(asyncio.shield(self.wait()), grace)
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """End it and its group now."""
        self._kill_group()
        return await self.wait()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _read_output(self) -> None:
        stdout = self._process.stdout
        while stdout is not None and (data := await stdout.read(65536)):
            self._output.feed(data)
        self._output.close()


def _pipe(on_error: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    on_error.callback(os.close, read)
    on_error.callback(os.close, write)
    return read, write


async def _read_ready(descriptor: int) -> bool:
    """Whether something came before the pipe's end."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        return bool(await reader.read(1))
    finally:
        transport.close()
