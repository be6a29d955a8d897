"""Forgetting what has been finished for long enough."""

from __future__ import annotations

import asyncio
import logging
import time

from llamadeploy.exceptions import LlamaDeployError
from llamadeploy.state_stores.base import StateStore

log = logging.getLogger(__name__)

SWEEP_SECONDS = 30.0
"""How often finished tasks are checked against the retention."""

SWEEP_TASKS = 500
"""Tasks forgotten per call, so that no transaction holds others up."""


async def sweep_forever(store: StateStore, retention: float) -> None:
    """Forget tasks that finished more than ``retention`` seconds ago, until cancelled."""
    pause = min(SWEEP_SECONDS, max(retention / 4, 0.05))
    while True:
        more = False
        try:
            more = await store.expire(time.time() - retention, limit=SWEEP_TASKS) >= SWEEP_TASKS
        except LlamaDeployError as error:
            log.warning("finished tasks are kept a little longer: %s", error)
        await asyncio.sleep(0 if more else pause)
