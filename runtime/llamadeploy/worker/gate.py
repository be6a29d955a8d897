"""One execution at a time that must be alone, any number of the others."""

from __future__ import annotations

import asyncio


class ExclusiveGate:
    """Keeps an execution that may kill its process away from the others (one loop's use only).

    As soon as one asks to be alone nobody else enters; it goes in when those inside have left or
    paused. Who waits inside for another task (a service call, or an answer that keeps a run in
    memory) pauses: it could wait for a task that waits at this gate.
    """

    def __init__(self) -> None:
        self._active = 0
        self._wanting = 0
        self._exclusive = False
        self._changed = asyncio.Event()

    async def enter(self) -> None:
        """Go in with the others."""
        while self._wanting:
            await self._change()
        self._active += 1

    def leave(self) -> None:
        """Come out of :meth:`enter`."""
        self._active -= 1
        self._notify()

    async def enter_alone(self) -> None:
        """Go in when nobody else is inside."""
        self._wanting += 1
        try:
            while self._active or self._exclusive:
                await self._change()
        except asyncio.CancelledError:
            self._wanting -= 1
            self._notify()
            raise
        self._exclusive = True

    def leave_alone(self) -> None:
        """Come out of :meth:`enter_alone`."""
        self._exclusive = False
        self._wanting -= 1
        self._notify()

    def pause(self) -> None:
        """One of those inside does nothing for now."""
        self.leave()

    def resume(self) -> None:
        """It goes on, whoever is inside."""
        self._active += 1

    async def _change(self) -> None:
        await self._changed.wait()

    def _notify(self) -> None:
        # Those who wait now look again; those who come later wait for the next change.
        self._changed.set()
        self._changed = asyncio.Event()
