"""One run of a front end: a process group with our guard as its leader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from llamadeploy.api_server.backends.local.worker_process import OutputTail
from llamadeploy.exceptions import DeploymentError
from llamadeploy.ui import guard
from llamadeploy.ui.ports import LOOPBACKS

GUARD = (sys.executable, "-I", "-S", str(Path(guard.__file__)))

_POLL_SECONDS = 0.05
_OUTPUT_SECONDS = 1.0
"""How long the rest of a dead front end's output is waited for."""


class FrontEndProcess:
    """A running front end; made by :meth:`start`."""

    def __init__(
        self, process: asyncio.subprocess.Process, port: int, parent_fd: int, output: OutputTail
    ) -> None:
        self.port = port
        self._process = process
        self._parent_fd = parent_fd
        self._output = output
        self._reading = asyncio.create_task(self._read_output(), name=f"ui output {process.pid}")

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        port: int,
        *,
        hide: Callable[[str], str],
        forward: Callable[[str], None],
    ) -> Self:
        """Start ``command``, which is expected to listen on ``port``, with exactly ``environ``.

        Args:
            hide: takes the secrets out of a line of its output.
            forward: gets each line of its output.

        Raises:
            DeploymentError: it could not be started at all.
        """
        parent_read, parent_write = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *GUARD,
                str(parent_read),
                *command,
                env=environ,
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(parent_read,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(parent_write)
            raise DeploymentError(f"the user interface cannot be started: {error}") from error
        finally:
            os.close(parent_read)
        return cls(process, port, parent_write, OutputTail(hide, forward))

    @property
    def pid(self) -> int:
        """The id of the leader, also its group's."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """As of ``subprocess``: negative for a signal; ``None`` while it runs."""
        return self._process.returncode

    @property
    def output(self) -> str:
        """The last lines it wrote."""
        return str(self._output)

    async def listening(self) -> None:
        """Return once it accepts connections on its port.

        Raises:
            DeploymentError: it ended before; the message has its last lines.
        """
        while not await _accepts(self.port):
            if self.exit_code is not None:
                await self.wait()
                raise DeploymentError(self.describe_end())
            await asyncio.sleep(_POLL_SECONDS)

    async def wait(self) -> None:
        """Return once it has ended, its whole group is gone and its output read."""
        await self._process.wait()
        if self._parent_fd < 0:
            return
        self._signal(signal.SIGKILL)
        os.close(self._parent_fd)
        self._parent_fd = -1
        await asyncio.wait({self._reading}, timeout=_OUTPUT_SECONDS)
        self._reading.cancel()

    def describe_end(self) -> str:
        """How it ended, with its last lines."""
        code = self.exit_code
        if code is not None and code < 0:
            how = f"was killed by signal {-code} ({signal.strsignal(-code)})"
        else:
            how = f"ended with exit code {code}"
        return f"the user interface {how}" + (f":\n{self.output}" if self.output else "")

    async def stop(self, grace: float) -> None:
        """Ask the whole group to end, and kill what is left of it after ``grace`` seconds.
        Idempotent."""
        if self.exit_code is None and grace > 0:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.wait()), grace)
                return
        if self.exit_code is None:
            self._signal(signal.SIGKILL)
        await self.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def _read_output(self) -> None:
        stdout = self._process.stdout
        while stdout is not None and (data := await stdout.read(65536)):
            self._output.feed(data)
        self._output.close()


async def _accepts(port: int) -> bool:
    for _, host in LOOPBACKS:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            continue
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True
    return False
