from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import pytest

from llamadeploy_operator.autoscaling import Floor, floor_at
from llamadeploy_operator.autoscaling.schedules import problem, seconds_to_change

OFFICE = Floor("0 8 * * MON-FRI", "0 18 * * MON-FRI", "Europe/Berlin", 3)
NIGHT = Floor("0 22 * * *", "0 6 * * *", "Europe/Berlin", 5)


def at(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-23 07:59:59", 0),  # a Monday
        ("2026-11-23 08:00:00", 3),
        ("2026-11-23 17:59:59", 3),
        ("2026-11-23 18:00:00", 0),
        ("2026-11-28 12:00:00", 0),  # a Saturday
        ("2026-07-06 08:00:00", 3),  # summer time
    ],
)
def test_office_hours(moment: str, expected: int) -> None:
    assert floor_at((OFFICE,), at(moment)) == expected


def test_a_time_zone_is_its_own() -> None:
    assert floor_at((OFFICE,), at("2026-11-23 07:30:00", "UTC")) == 3
    assert floor_at((OFFICE,), at("2026-07-06 06:30:00", "UTC")) == 3
    assert floor_at((OFFICE,), at("2026-07-06 05:30:00", "UTC")) == 0


def test_past_midnight() -> None:
    assert floor_at((NIGHT,), at("2026-11-23 23:30:00")) == 5
    assert floor_at((NIGHT,), at("2026-11-24 05:59:00")) == 5
    assert floor_at((NIGHT,), at("2026-11-24 06:00:00")) == 0


def test_a_start_that_the_clock_skips_still_comes() -> None:
    """On 2027-03-28 there is no 02:30 in Berlin."""
    floor = Floor("30 2 * * *", "0 5 * * *", "Europe/Berlin", 2)
    assert floor_at((floor,), at("2027-03-28 04:00:00")) == 2


def test_in_an_hour_that_comes_twice_a_floor_may_hold_twice_but_not_longer() -> None:
    """On 2026-10-25, 02:30 comes twice in Berlin: at 00:30 and 01:30 UTC."""
    floor = Floor("30 2 * * *", "45 2 * * *", "Europe/Berlin", 2)
    start = at("2026-10-25 00:00:00", "UTC")
    held = {minute for minute in range(180) if floor_at((floor,), start + 60 * minute)}
    assert set(range(30, 45)) <= held <= {*range(30, 45), *range(90, 105)}


def test_the_highest_floor_counts() -> None:
    low = Floor("0 0 * * *", "59 23 * * *", "UTC", 1)
    assert floor_at((low, OFFICE), at("2026-11-23 12:00:00")) == 3
    assert floor_at((), at("2026-11-23 12:00:00")) == 0


def test_seconds_to_the_next_change() -> None:
    assert seconds_to_change((OFFICE,), at("2026-11-23 07:59:30")) == 30
    assert seconds_to_change((OFFICE, NIGHT), at("2026-11-23 17:00:00")) == 3600
    assert seconds_to_change((), 0.0) is None


@pytest.mark.parametrize(
    ("floor", "expected"),
    [
        (OFFICE, None),
        (Floor("0 8 * *", "0 18 * * *", "UTC", 1), "start: '0 8 * *' needs the five fields"),
        (Floor("0 8 * * *", "0 25 * * *", "UTC", 1), "end: '0 25 * * *' is no cron expression"),
        (Floor("0 8 30 2 *", "0 9 * * *", "UTC", 1), "start: '0 8 30 2 *' "),
        (Floor("0 8 * * *", "0 8 * * *", "UTC", 1), "end: is the same as start"),
        (Floor("0 8 * * *", "0 9 * * *", "Mars/Base", 1), "timeZone: 'Mars/Base' is unknown"),
        (Floor("0 8 * * *", "0 9 * * *", "../etc/passwd", 1), "timeZone: '../etc/passwd'"),
    ],
)
def test_problems_name_the_field(floor: Floor, expected: str | None) -> None:
    found = problem(floor)
    assert found is None if expected is None else found is not None and found.startswith(expected)
