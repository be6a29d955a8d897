"""What the workers of a deployment write, kept in files of bounded size and handed to followers.

::

    <folder>/<service>.log      the newest lines, one JSON object each
    <folder>/<service>.log.1    those before them

Lines come in on the event loop and are written by a thread, many at a time.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from llamadeploy.control_plane.worker_control import LogLine

log = logging.getLogger(__name__)

FILE_BYTES = 4 * 1024 * 1024
"""A service's newest file is put aside at this size, and the one before it dropped: with two of
them the last 30,000 lines or more of each service are there."""

WAITING_LINES = 10_000
"""Lines that wait for the disk, or for a slow follower; beyond it the oldest are dropped."""

WRITE_SECONDS = 0.2
HEARTBEAT_SECONDS = 5.0


class _Stored(msgspec.Struct, array_like=True):
    at: float
    replica: str
    text: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Stored).decode


class WorkerLogs:
    """The output of one deployment's workers."""

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES) -> None:
        self._folder = folder
        self._file_bytes = file_bytes
        self._waiting: deque[LogLine] = deque(maxlen=WAITING_LINES)
        self._dropped = 0
        self._followers: set[_Follower] = set()
        self._disk = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, service: str, replica: str, text: str) -> None:
        """Take a line. Never blocks; on the event loop."""
        if self._closed:
            return
        line = LogLine(time.time(), service, replica, text)
        if len(self._waiting) == WAITING_LINES:
            self._dropped += 1
        self._waiting.append(line)
        for follower in self._followers:
            follower.add(line)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_soon(), name="worker logs")

    async def read(
        self, service: str | None, *, tail: int, follow: bool
    ) -> AsyncIterator[list[LogLine]]:
        """The last ``tail`` lines of a service (or of all), then with ``follow`` what comes.

        While nothing comes an empty batch says now and then that this is alive.
        """
        follower = _Follower(service)
        try:
            async with self._disk:
                # From here on lines go to the follower, all earlier ones are read from the files.
                batch = self._take()
                if follow and not self._closed:
                    self._followers.add(follower)
                lines = await asyncio.to_thread(self._write_and_read, batch, service, tail)
            yield lines
            while follow and not (self._closed and not follower.lines):
                yield await follower.next()
        finally:
            self._followers.discard(follower)

    async def aclose(self) -> None:
        """Write what waits and let followers end. Idempotent; lines that come later are dropped."""
        self._closed = True
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        async with self._disk:
            await asyncio.to_thread(self._write, self._take())
        for follower in self._followers:
            follower.wake()

    def _take(self) -> list[LogLine]:
        lines = list(self._waiting)
        self._waiting.clear()
        if self._dropped:
            log.warning("%d lines of workers came too fast to be kept", self._dropped)
            self._dropped = 0
        return lines

    async def _write_soon(self) -> None:
        while self._waiting:
            await asyncio.sleep(WRITE_SECONDS)
            async with self._disk:
                batch = self._take()
                # Shielded: a batch that was taken is written, also when this is cancelled.
                await asyncio.shield(asyncio.to_thread(self._write, batch))
        self._writing = None

    # -- in a thread ---------------------------------------------------------------------------
    def _write_and_read(
        self, batch: list[LogLine], service: str | None, tail: int
    ) -> list[LogLine]:
        self._write(batch)
        paths = [self._path(service)] if service is not None else self._folder.glob("*.log")
        newest = (self._read_file(path, tail) for path in paths)
        return list(heapq.merge(*newest, key=lambda line: line.at))[-tail:] if tail else []

    def _write(self, batch: list[LogLine]) -> None:
        by_service: dict[str, list[LogLine]] = {}
        for line in batch:
            by_service.setdefault(line.service, []).append(line)
        try:
            for service, lines in by_service.items():
                self._append(self._path(service), lines)
        except OSError as error:
            log.warning("%d lines of workers were not kept: %s", len(batch), error)

    def _append(self, path: Path, lines: Iterable[LogLine]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        data = b"".join(
            _encode(_Stored(line.at, line.replica, line.text)) + b"\n" for line in lines
        )
        if path.exists() and path.stat().st_size + len(data) > self._file_bytes:
            path.replace(path.with_name(path.name + ".1"))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(data[-self._file_bytes :])

    def _read_file(self, path: Path, tail: int) -> list[LogLine]:
        """The last lines of a service, the oldest first."""
        service = _service(path)
        found: list[bytes] = []
        for each in (path, path.with_name(path.name + ".1")):
            if len(found) < tail and each.exists():
                found = [*each.read_bytes().splitlines(), *found]
        lines = []
        for text in found[-tail:]:
            try:
                stored = _decode(text)
            except msgspec.DecodeError:
                continue  # cut off by a crash, or by the file's bound
            lines.append(LogLine(stored.at, service, stored.replica, stored.text))
        return lines

    def _path(self, service: str) -> Path:
        return self._folder / f"{quote(service, safe='')}.log"


def _service(path: Path) -> str:
    return unquote(path.name.removesuffix(".log"))


class _Follower:
    """Lines for one reader."""

    def __init__(self, service: str | None) -> None:
        self._service = service
        self._wake = asyncio.Event()
        self.lines: deque[LogLine] = deque(maxlen=WAITING_LINES)

    def add(self, line: LogLine) -> None:
        if self._service in (None, line.service):
            self.lines.append(line)
            self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    async def next(self) -> list[LogLine]:
        """What has come; empty after a while in which nothing did."""
        try:
            await asyncio.wait_for(self._wake.wait(), HEARTBEAT_SECONDS)
        except TimeoutError:
            return []
        self._wake.clear()
        lines = list(self.lines)
        self.lines.clear()
        return lines
