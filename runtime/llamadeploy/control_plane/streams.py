"""What one reader of a task's event log sees: contiguous indices of one attempt, up to the tail.

Pure. The log holds the events of all attempts by ``seq``. An attempt writes from its ``base_index``
on and inherits what earlier attempts wrote below it, so in the *view* of attempt A an index belongs
to the latest attempt up to A whose base is not above it. A reader follows the newest view. When a
new attempt begins below what was shown already, a typed reader gets a :class:`Restart`; a legacy
reader has no marker and is spared the events that come out the same again.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

from llamadeploy.state_stores.records import LoggedEvent, LogPage


@dataclass(frozen=True, slots=True)
class Restart:
    """Forget the events with an index of ``base_index`` and above: ``attempt`` writes them anew."""

    attempt: int
    base_index: int


StreamItem = LoggedEvent | Restart


class StreamReader:
    """Turns pages of the log, read one after the other, into what is to be shown.

    Args:
        legacy: no restart markers.

    Attributes:
        after: the ``seq`` to read the next page after.
        next_index: the index that is shown next.
        complete: the task has ended and all of its indices were shown.
    """

    def __init__(self, *, legacy: bool = True) -> None:
        self.after = 0
        self.next_index = 0
        self.complete = False
        self._legacy = legacy
        self._attempt: int | None = None
        self._bases: Mapping[int, int] = {}
        self._ceilings: dict[int, int | None] = {}
        self._held: dict[int, LoggedEvent] = {}
        # Of a legacy reader: hashes of the data shown, from index _shown_from on.
        self._shown = array("q")
        self._shown_from = 0

    def resume_after(self, event: LoggedEvent) -> None:
        """Begin behind ``event``, the last one that an earlier connection got."""
        self.after = event.seq
        self.next_index = self._shown_from = event.index + 1
        self._attempt = event.attempt

    def feed(self, page: LogPage) -> list[StreamItem]:
        """What the page, read after :attr:`after`, adds."""
        out: list[StreamItem] = []
        if self._attempt != page.attempt:
            self._switch(page, out)
        show, current = self._show, self._attempt
        for event in page.events:
            if event.attempt != current and not self._inherited(event):
                continue
            if event.index == self.next_index:
                show(event, out)
            elif event.index > self.next_index:
                self._held[event.index] = event
            if self._held:
                self._show_held(out)
        if page.events:
            self.after = page.events[-1].seq
        self.complete = page.state.terminal and self.next_index >= page.event_count
        return out

    def rest(self) -> list[StreamItem]:
        """The events behind a gap that nobody will fill any more, in order."""
        out: list[StreamItem] = []
        for index in sorted(self._held):
            self.next_index = index
            self._show(self._held[index], out)
        self._held.clear()
        self.complete = True
        return out

    def _switch(self, page: LogPage, out: list[StreamItem]) -> None:
        previous, self._attempt = self._attempt, page.attempt
        self._bases, self._ceilings = page.bases, {}
        if previous is None:
            return
        base = self._ceiling(previous)
        self._held = {i: e for i, e in self._held.items() if self._inherited(e)}
        if base is None or base >= self.next_index:
            return
        self.next_index = base
        if not self._legacy:
            out.append(Restart(page.attempt, base))
        elif base < self._shown_from:
            self._shown, self._shown_from = array("q"), base

    def _ceiling(self, attempt: int) -> int | None:
        """The first index that a later attempt has taken from ``attempt``, ``None`` for none."""
        if attempt not in self._ceilings:
            current = self._attempt or 0
            later = range(attempt + 1, current + 1)
            self._ceilings[attempt] = min((self._bases.get(k, 0) for k in later), default=None)
        return self._ceilings[attempt]

    def _inherited(self, event: LoggedEvent) -> bool:
        ceiling = self._ceiling(event.attempt)
        return ceiling is None or event.index < ceiling

    def _show_held(self, out: list[StreamItem]) -> None:
        while (event := self._held.pop(self.next_index, None)) is not None:
            self._show(event, out)

    def _show(self, event: LoggedEvent, out: list[StreamItem]) -> None:
        position = self.next_index - self._shown_from
        self.next_index += 1
        if not self._legacy:
            out.append(event)
            return
        mark = hash(event.data)
        if position < len(self._shown):
            if self._shown[position] == mark:
                return
            del self._shown[position:]
        self._shown.append(mark)
        out.append(event)
