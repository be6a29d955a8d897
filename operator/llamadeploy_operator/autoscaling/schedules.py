"""Floors by the clock: cron expressions in time zones.

A start that a change of the clocks skips still comes (the library follows Debian's cron). In the
hour that comes twice, a floor that starts and ends within it may hold twice.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from llamadeploy_operator.autoscaling.policy import Floor

_MINUTE = datetime.timedelta(minutes=1)


def floor_at(floors: tuple[Floor, ...], now: float) -> int:
    """The highest floor that holds now (seconds since 1970); 0 where none does."""
    minute = int(now // 60)
    return max((each.min_replicas for each in floors if _holds(each, minute)), default=0)


def seconds_to_change(floors: tuple[Floor, ...], now: float) -> float | None:
    """Until the next start or end of one of them; ``None``: there is none."""
    minute = int(now // 60)
    found = [at for each in floors if (at := _next(each, minute)) is not None]
    return max(0.0, min(found) - now) if found else None


def problem(floor: Floor) -> str | None:
    """What is wrong with a floor, naming the field and what would be right; ``None``: nothing."""
    try:
        zone = ZoneInfo(floor.time_zone)
    except (KeyError, ValueError, OSError):
        return f"timeZone: {floor.time_zone!r} is unknown; name one of the IANA database, like UTC"
    for field, expression in (("start", floor.start), ("end", floor.end)):
        if len(expression.split()) != 5:
            return f"{field}: {expression!r} needs the five fields of cron, like '0 8 * * MON-FRI'"
        try:
            next(CronSim(expression, datetime.datetime(2024, 1, 1, tzinfo=zone)))
        except CronSimError as error:
            return f"{field}: {expression!r} is no cron expression ({error})"
        except StopIteration:
            return f"{field}: {expression!r} never comes"
    if floor.start == floor.end:
        return "end: is the same as start, so the floor would never hold; name a later moment"
    return None


@lru_cache(maxsize=4096)
def _holds(floor: Floor, minute: int) -> bool:
    """Whether its last start is later than its last end. A moment's own minute counts."""
    later = _moment(floor, minute) + _MINUTE  # the search leaves its own moment out
    started = next(_times(floor.start, later, reverse=True), None)
    ended = next(_times(floor.end, later, reverse=True), None)
    if started is None or ended is None:
        return started is not None
    return started.timestamp() > ended.timestamp()  # of one zone, they would compare as wall clocks


@lru_cache(maxsize=4096)
def _next(floor: Floor, minute: int) -> float | None:
    now = _moment(floor, minute)
    found = [next(_times(expression, now), None) for expression in (floor.start, floor.end)]
    return min((at.timestamp() for at in found if at is not None), default=None)


def _times(
    expression: str, start: datetime.datetime, *, reverse: bool = False
) -> Iterator[datetime.datetime]:
    return CronSim(expression, start, reverse=reverse)


def _moment(floor: Floor, minute: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(minute * 60, ZoneInfo(floor.time_zone))
