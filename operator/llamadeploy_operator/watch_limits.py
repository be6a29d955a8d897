"""How long a watch may be silent: until it is opened anew, and until the process is unhealthy.

The API server sends a bookmark 2 s before a watch's time is up. So a watch that asks for a short
time (``timeoutSeconds``) gives a sign of life that often, however little happens; where it sends
none, because there was no event of that kind since it started, the end at that time is one:

- silent for ``silence``: the connection is dead. It is given up and the collection listed anew, so
  that what was missed is seen. Longer than ``request``, for a slow API server.
- not heard for ``deaf``: the process is unhealthy. The first list after a silence counts as heard
  when the silence was noticed, for the new connection deserves its time; further ones do not count.

Hence a watch that stays silent fails health ``silence + deaf`` after it was last heard: 110 s.
"""

from __future__ import annotations

from typing import NamedTuple

#: Seconds for which a watch is asked. Each costs a request; an hour of 13 watches, 1,200 of them.
REQUEST_SECONDS = 40
_SILENCE, _DEAF = 1.25, 1.5


class WatchLimits(NamedTuple):
    """Seconds; see above."""

    request: int
    silence: float
    deaf: float

    @property
    def unhealthy(self) -> float:
        """After the last sign of life of a watch that stays silent, at the latest."""
        return self.silence + self.deaf


def watch_limits(request: int = REQUEST_SECONDS) -> WatchLimits:
    """All limits from the one that can be set."""
    return WatchLimits(request, _SILENCE * request, _DEAF * request)
