"""Kubernetes Events: what a person would want to know, said once, and never a storm."""

from __future__ import annotations

import datetime
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.kinds import EVENT

logger = logging.getLogger(__name__)

#: Seconds for which the same words about the same object are not repeated.
REPEAT_SECONDS = 3600.0
#: Events of one object within :data:`REPEAT_SECONDS`, whatever they say.
BURST = 25
#: Objects whose Events are remembered.
MEMORY = 10_000
#: The API's own limit.
MESSAGE_LIMIT = 1024

COMPONENT = "llamadeploy-operator"


class Recorder:
    """Posts Events about custom resources. A failure is logged, and nothing waits for it."""

    def __init__(
        self, api: Api, instance: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._instance = instance
        self._clock = clock
        # uid -> (reason and message) -> when it was said.
        self._said: OrderedDict[str, dict[str, float]] = OrderedDict()

    async def record(
        self,
        about: Mapping[str, Any],
        reason: str,
        message: str,
        *,
        kind: Literal["Normal", "Warning"] = "Normal",
    ) -> None:
        """Post an Event about a custom resource, unless it was said or too much was said."""
        metadata = about["metadata"]
        words = hashlib.sha256(f"{reason}\0{message}".encode()).hexdigest()[:16]
        if not self._may_say(metadata["uid"], words):
            return
        now = datetime.datetime.now(datetime.UTC)
        body = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {
                "name": f"{metadata['name'][:200]}.{words}{int(now.timestamp()):x}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "reason": reason,
            "message": message[:MESSAGE_LIMIT],
            "type": kind,
            "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "count": 1,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance[:128],
        }
        try:
            await self._api.create(EVENT, metadata["namespace"], body)
        except ApiError as error:
            logger.warning("event %s of %s is lost: %s", reason, metadata["name"], error)

    def _may_say(self, uid: str, words: str) -> bool:
        now = self._clock()
        said = self._said.setdefault(uid, {})
        self._said.move_to_end(uid)
        while len(self._said) > MEMORY:
            self._said.popitem(last=False)
        for old in [key for key, when in said.items() if now - when > REPEAT_SECONDS]:
            del said[old]
        if words in said or len(said) >= BURST:
            return False
        said[words] = now
        return True
