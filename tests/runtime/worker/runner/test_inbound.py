"""The inbox on its own: whatever a run does with what it is offered, each event is taken once."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from llamadeploy.state_stores.records import InboundEvent
from llamadeploy.worker.inbound import Inbox


def event(seq: int, kind: str = "A") -> InboundEvent:
    return InboundEvent(seq, json.dumps({"qualified_name": f"x.{kind}", "value": {}}))


def test_early_events_are_held_until_the_run_is_idle() -> None:
    inbox = Inbox(early=[event(1), event(2)])
    assert inbox.offer_live() == []
    assert inbox.offer_at_idle() == event(1)
    assert inbox.in_flight


def test_live_events_go_in_at_once_one_of_a_type_at_a_time() -> None:
    inbox = Inbox()
    inbox.accept([event(1, "A"), event(2, "A"), event(3, "B")], live=True)
    assert inbox.offer_live() == [event(1, "A"), event(3, "B")]
    inbox.taken(1)
    assert inbox.offer_live() == [event(2, "A")]


def test_a_declined_event_is_offered_again_only_after_progress() -> None:
    inbox = Inbox(early=[event(1)])
    inbox.declined(inbox.offer_at_idle())
    assert inbox.offer_at_idle() is None
    inbox.progressed()
    assert inbox.offer_at_idle() == event(1)


def test_live_events_wait_behind_a_declined_one_of_their_type() -> None:
    inbox = Inbox(early=[event(1)])
    inbox.declined(inbox.offer_at_idle())
    inbox.accept([event(2), event(3, "B")], live=True)
    assert inbox.offer_live() == [event(3, "B")]


def test_repeats_are_skipped_and_held_events_come_back() -> None:
    inbox = Inbox(consumed_seq=5, held=[event(2)], early=[event(4), event(6)])
    assert inbox.held == (event(2), event(6))
    assert inbox.last_seq == 6
    inbox.accept([event(6), event(2)])
    assert inbox.held == (event(2), event(6))


@given(st.data())
def test_each_event_is_taken_exactly_once_and_in_order_of_its_type(data: st.DataObject) -> None:
    """The run wants one type at a time, as a step that waits does, and is parked at will."""
    kinds = data.draw(st.lists(st.sampled_from("AB"), max_size=8))
    events = [event(seq, kind) for seq, kind in enumerate(kinds, 1)]
    early = data.draw(st.integers(0, len(events)))
    wanted = data.draw(st.permutations(kinds))
    inbox, sent, got = Inbox(early=events[:early]), early, []
    flying: list[InboundEvent] = []
    for _ in range(200):
        choice = data.draw(st.sampled_from(["deliver", "look", "idle", "park"]))
        if choice == "deliver" and sent < len(events):
            sent += 1
            inbox.accept(events[data.draw(st.integers(0, sent - 1)) : sent], live=True)
            flying += inbox.offer_live()
        elif choice == "idle" and not flying:
            flying += [offered] if (offered := inbox.offer_at_idle()) else []
        elif choice == "park" and not flying:
            inbox = Inbox(inbox.last_seq, inbox.held)
        while flying:
            each = flying.pop(0)
            kind = kinds[each.seq - 1]
            inbox.taken(each.seq)
            if wanted and wanted[0] == kind:
                got.append(each.seq)
                wanted = wanted[1:]
                inbox.progressed()
                flying += inbox.offer_live()
            else:
                inbox.declined(each)
        if not wanted:
            break
    rest = Inbox(inbox.last_seq, inbox.held, events)
    while wanted and (each := rest.offer_at_idle()):
        rest.taken(each.seq)
        if wanted[0] == kinds[each.seq - 1]:
            got.append(each.seq)
            wanted = wanted[1:]
            rest.progressed()
        else:
            rest.declined(each)
    assert sorted(got) == [each.seq for each in events]
    for kind in "AB":
        mine = [seq for seq in got if kinds[seq - 1] == kind]
        assert mine == sorted(mine)
