"""What consumers have in common that read ahead into a buffer: their context and iteration."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, TypeVar

from llamadeploy.exceptions import QueueError

D = TypeVar("D")


class BufferedConsumer(ABC, Generic[D]):
    """Half a consumer (see ``base.Consumer``); subclasses fill ``_buffer`` and set ``_changed``.

    Attributes:
        _error: a refusal: it ends the iteration once the buffer is empty.
        _closed: so does this, without an error.
    """

    def __init__(self) -> None:
        self._buffer: deque[D] = deque()
        self._changed = asyncio.Event()
        self._error: QueueError | None = None
        self._closed = False

    @abstractmethod
    async def close(self) -> None:
        """Hand back what was not acknowledged. Idempotent."""

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[D]:
        return self

    async def __anext__(self) -> D:
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._buffer.popleft()
