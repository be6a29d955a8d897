"""The pure reader: whatever attempts come and go, indices are contiguous and the tail is seen."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamadeploy.control_plane.streams import Restart, StreamItem, StreamReader
from llamadeploy.state_stores.records import LoggedEvent, LogPage
from llamadeploy.types import TaskState


@dataclass
class Log:
    """A task's log as a store keeps it, and what its newest view is."""

    events: list[LoggedEvent] = field(default_factory=list)
    bases: dict[int, int] = field(default_factory=dict)
    attempt: int = 0
    view: list[str] = field(default_factory=list)
    state: TaskState = TaskState.RUNNING

    def begin(self, base: int) -> None:
        self.attempt += 1
        self.bases[self.attempt] = base
        del self.view[base:]

    def append(self, *data: str) -> None:
        for item in data:
            event = LoggedEvent(len(self.events) + 1, self.attempt, len(self.view), "Event", item)
            self.events.append(event)
            self.view.append(item)

    def page(self, after: int, limit: int) -> LogPage:
        return LogPage(
            state=self.state,
            attempt=self.attempt,
            bases=dict(self.bases),
            event_count=len(self.view),
            events=tuple(self.events[after : after + limit]),
        )


def read_all(reader: StreamReader, log: Log, limit: int = 3) -> list[StreamItem]:
    out: list[StreamItem] = []
    while True:
        page = log.page(reader.after, limit)
        out += reader.feed(page)
        if len(page.events) < limit:
            return out


def data(items: list[StreamItem]) -> list[str]:
    return [item.data for item in items if isinstance(item, LoggedEvent)]


# One step of a task's life: events, a new attempt (with a base somewhere below), or a read.
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("begin"), st.floats(0, 1)),
        st.tuples(st.just("read"), st.integers(1, 5)),
    ),
    max_size=30,
)


def _live(log: Log, steps: list[tuple[str, float]], reader: StreamReader) -> list[StreamItem]:
    out: list[StreamItem] = []
    log.begin(0)
    for number, (what, value) in enumerate(steps):
        if what == "append":
            log.append(*(f"{number}.{n}" for n in range(int(value))))
        elif what == "begin":
            log.begin(int(value * len(log.view)))
        else:
            out += reader.feed(log.page(reader.after, int(value)))
    log.state = TaskState.SUCCEEDED
    return out + read_all(reader, log)


@settings(max_examples=200, deadline=None)
@given(_steps)
@pytest.mark.rule(12)
def test_a_typed_reader_rebuilds_the_newest_view(steps: list[tuple[str, float]]) -> None:
    log, reader = Log(), StreamReader(legacy=False)
    shown: list[str] = []
    for item in _live(log, steps, reader):
        if isinstance(item, Restart):
            assert item.base_index <= len(shown)
            del shown[item.base_index :]
        else:
            assert item.index == len(shown)
            shown.append(item.data)
    assert shown == log.view
    assert reader.complete


@settings(max_examples=200, deadline=None)
@given(_steps)
@pytest.mark.rule(12)
def test_a_legacy_reader_sees_each_view_it_follows_and_the_whole_tail(
    steps: list[tuple[str, float]],
) -> None:
    log, reader = Log(), StreamReader(legacy=True)
    items = _live(log, steps, reader)
    assert not any(isinstance(item, Restart) for item in items)
    indices = [item.index for item in items if isinstance(item, LoggedEvent)]
    # Within a view indices go up by one; a new attempt goes on somewhere below, never beyond.
    assert indices[:1] in ([], [0])
    assert all(after <= before + 1 for before, after in pairwise(indices))
    # The newest view is there in the end, with nothing left out of it.
    shown: dict[int, str] = {}
    for item in items:
        assert isinstance(item, LoggedEvent)
        shown[item.index] = item.data
    assert [shown[i] for i in range(len(log.view))] == log.view
    assert reader.complete


@settings(max_examples=150, deadline=None)
@given(_steps, st.data())
def test_a_typed_reader_continues_behind_any_event(
    steps: list[tuple[str, float]], pick: st.DataObject
) -> None:
    log = Log()
    _live(log, steps, StreamReader())
    first = StreamReader(legacy=False)
    items = read_all(first, log)
    cut = pick.draw(st.integers(0, len(items)))
    shown = data(items[:cut])
    reader = StreamReader(legacy=False)
    if cut:
        last = items[cut - 1]
        assert isinstance(last, LoggedEvent)
        reader.resume_after(last)
    for item in read_all(reader, log):
        if isinstance(item, Restart):
            del shown[item.base_index :]
        else:
            assert item.index == len(shown)
            shown.append(item.data)
    assert shown == log.view


@given(st.permutations(range(8)), st.integers(1, 8))
def test_events_that_come_out_of_order_are_put_in_order(order: list[int], limit: int) -> None:
    log = Log(state=TaskState.SUCCEEDED, view=[""] * 8)
    log.events = [LoggedEvent(n + 1, 0, index, "", str(index)) for n, index in enumerate(order)]
    assert data(read_all(StreamReader(), log, limit)) == [str(i) for i in range(8)]


def test_an_identical_prefix_is_shown_once_to_a_legacy_reader() -> None:
    log, reader = Log(), StreamReader()
    log.begin(0)
    log.append("a", "b", "c")
    assert data(read_all(reader, log)) == ["a", "b", "c"]
    log.begin(0)
    log.append("a", "b")
    assert data(read_all(reader, log)) == []
    log.append("c", "d")
    log.state = TaskState.SUCCEEDED
    assert data(read_all(reader, log)) == ["d"]
    assert reader.complete


def test_a_rerun_that_differs_is_shown_from_where_it_differs() -> None:
    log, reader = Log(), StreamReader()
    log.begin(0)
    log.append("a", "b", "c")
    read_all(reader, log)
    log.begin(0)
    log.append("a", "x", "c", "d")
    assert data(read_all(reader, log)) == ["x", "c", "d"]


def test_a_resumed_attempt_inherits_what_is_below_its_base() -> None:
    log = Log()
    log.begin(0)
    log.append("a", "b", "lost")
    log.begin(2)
    log.append("c")
    assert data(read_all(StreamReader(), log)) == ["a", "b", "c"]
    typed = StreamReader(legacy=False)
    assert data(read_all(typed, log)) == ["a", "b", "c"]


def test_a_restart_names_attempt_and_base() -> None:
    log, reader = Log(), StreamReader(legacy=False)
    log.begin(0)
    log.append("a", "b")
    read_all(reader, log)
    log.begin(1)
    assert read_all(reader, log) == [Restart(attempt=2, base_index=1)]


@pytest.mark.rule(12)
def test_a_result_is_not_the_end_while_its_tail_is_missing() -> None:
    log, reader = Log(), StreamReader()
    log.begin(0)
    log.append("a", "b", "c")
    late = log.events.pop()
    log.state = TaskState.SUCCEEDED
    assert data(read_all(reader, log)) == ["a", "b"]
    assert not reader.complete
    log.events.append(late)
    assert data(read_all(reader, log)) == ["c"]
    assert reader.complete


def test_what_is_behind_a_gap_is_shown_in_the_end() -> None:
    log = Log(state=TaskState.SUCCEEDED, view=["", "", "", ""])
    log.events = [LoggedEvent(n + 1, 0, i, "", str(i)) for n, i in enumerate((0, 3, 2))]
    reader = StreamReader()
    assert data(read_all(reader, log)) == ["0"]
    assert data(reader.rest()) == ["2", "3"]
    assert reader.complete


def test_reading_is_linear_in_the_number_of_events() -> None:
    def seconds(count: int) -> float:
        log = Log()
        log.begin(0)
        log.append(*map(str, range(count)))
        pages = [log.page(after, 1000) for after in range(0, count + 1, 1000)]
        reader = StreamReader()
        begin = time.process_time()
        shown = sum(len(reader.feed(page)) for page in pages)
        assert shown == count
        return time.process_time() - begin

    seconds(1000)
    small, large = seconds(10_000), seconds(100_000)
    assert large < 2.0  # 100,000 events: 5,000/s would be 20 s for everything together
    assert large < 40 * max(small, 0.002)
