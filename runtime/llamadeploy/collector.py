"""The garbage collector of a process that serves."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 10_000
"""Allocated objects until the young ones are searched, instead of 700 (2,000 from Python 3.14 on):
a task makes some hundred, nearly all of which go by reference count."""

OLDER_ROUNDS = 20
"""Searches of one generation until the next older one is searched too, instead of 10."""


def settle_collector() -> None:
    """Call it once everything that stays is loaded: that is never searched again, and what is
    allocated from now on less often. A process that set thresholds of its own keeps them."""
    gc.freeze()
    if gc.isenabled() and gc.get_threshold()[0] in (700, 2000):
        gc.set_threshold(YOUNG_OBJECTS, OLDER_ROUNDS, OLDER_ROUNDS)
