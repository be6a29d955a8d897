"""Which accepted event goes into a run when. Pure: no loop, no workflow library.

The library drops an event that no step and no waiter takes at that moment. So events that are
early (accepted before the run got as far as waiting, or replayed into a new attempt) are held and
offered one at a time when the run is idle; live ones go in at once; and what came back unhandled
is offered again at an idle moment after the run has moved on. Events of one type keep their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from llamadeploy.state_stores.records import InboundEvent

_NEVER = -1


@dataclass(slots=True)
class _Held:
    event: InboundEvent
    live: bool
    offered_at: int = _NEVER
    in_flight: bool = False


class Inbox:
    """The accepted events of one run that it has not taken.

    Args:
        consumed_seq: events up to this ``seq`` are known already.
        held: events up to ``consumed_seq`` that the run was offered in vain before it was parked.
        early: accepted events above ``consumed_seq``.
    """

    __slots__ = ("_held", "_last_seq", "_progress")

    def __init__(
        self,
        consumed_seq: int = 0,
        held: Iterable[InboundEvent] = (),
        early: Iterable[InboundEvent] = (),
    ) -> None:
        self._held = {event.seq: _Held(event, live=False) for event in held}
        self._last_seq = consumed_seq
        self._progress = 0
        self.accept(early)

    @property
    def last_seq(self) -> int:
        """The highest ``seq`` seen: what is not in :attr:`held` up to here was taken."""
        return self._last_seq

    @property
    def held(self) -> tuple[InboundEvent, ...]:
        """What the run has not taken, by ``seq``."""
        return tuple(entry.event for _, entry in sorted(self._held.items()))

    @property
    def in_flight(self) -> bool:
        """Whether an offered event has not been looked at yet."""
        return any(entry.in_flight for entry in self._held.values())

    def accept(self, events: Iterable[InboundEvent], *, live: bool = False) -> None:
        """Add events; those at or below :attr:`last_seq` are repeats and are skipped.

        Args:
            live: the run is under way, so :meth:`offer_live` may return them.
        """
        for event in sorted(events, key=lambda event: event.seq):
            if event.seq > self._last_seq:
                self._held[event.seq] = _Held(event, live)
                self._last_seq = event.seq

    def offer_live(self) -> list[InboundEvent]:
        """The live events to send now: those with no earlier one of their type before them, and
        none as long as an early one waits for its first offer. Call again after :meth:`taken`."""
        ready: list[InboundEvent] = []
        taken_places: set[str] = set()
        for _, entry in sorted(self._held.items()):
            if entry.offered_at == _NEVER and not entry.live:
                break
            kind = _kind(entry.event)
            if entry.offered_at == _NEVER and kind not in taken_places:
                ready.append(self._offer(entry))
            taken_places.add(kind)
        return ready

    def offer_at_idle(self) -> InboundEvent | None:
        """The next event to send now that the run is idle; ``None``: nothing it has not declined
        since it last moved on."""
        for _, entry in sorted(self._held.items()):
            if entry.offered_at != self._progress and not entry.in_flight:
                return self._offer(entry)
        return None

    def taken(self, seq: int) -> None:
        """The run has the event, or it can never have it: forget it."""
        self._held.pop(seq, None)

    def declined(self, event: InboundEvent) -> None:
        """The offered event came back unhandled."""
        entry = self._held.setdefault(event.seq, _Held(event, live=False))
        entry.in_flight = False
        entry.offered_at = self._progress

    def progressed(self) -> None:
        """A step has ended: what was declined before may be welcome at the next idle."""
        self._progress += 1

    def _offer(self, entry: _Held) -> InboundEvent:
        entry.in_flight = True
        entry.offered_at = self._progress
        return entry.event


def _kind(event: InboundEvent) -> str:
    """The type's bare name: the families of names for one type differ in the module."""
    try:
        name = json.loads(event.event)["qualified_name"]
    except (ValueError, TypeError, KeyError):
        return ""
    return str(name).rpartition(".")[2]
