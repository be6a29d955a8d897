"""One of several operator replicas works: the one that holds the Lease.

Ours, because the elector of ``kubernetes.aio`` lets connection errors escape and leaves the leading
task running. Here losing the lease, for whatever reason, ends the process: a fresh one cannot have
forgotten anything.

The order that makes two writers impossible: a call gives up after 3 s, a leader that has not
renewed for 10 s no longer writes and exits, and nobody takes a lease before it has stood still for
15 s.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from dataclasses import dataclass
from typing import Any

from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.kinds import LEASE

logger = logging.getLogger(__name__)

CALL_SECONDS = 3.0
RENEW_SECONDS = 10.0
LEASE_SECONDS = 15
RETRY_SECONDS = 2.0


class LeadershipLost(Exception):
    """Another replica leads, or the lease could not be renewed in time."""


def clock() -> float:
    """Seconds that go on while the process, or the machine, stands still."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class LeaseName:
    """Where the Lease is, and as whom we hold it."""

    namespace: str
    name: str
    identity: str


class Elector:
    """Takes, renews and gives back the Lease.

    ``api`` should be a client of its own: a renewal must not wait for a connection behind the
    traffic of reconciling.
    """

    def __init__(self, api: Api, lease: LeaseName) -> None:
        self._api = api
        self._lease = lease
        self._renewed = float("-inf")
        self._seen: tuple[Any, ...] | None = None
        self._seen_at = 0.0

    def leading(self) -> bool:
        """Whether a write may be sent now: the lease is ours and freshly renewed."""
        return clock() - self._renewed < RENEW_SECONDS

    async def acquire(self) -> None:
        """Wait until we lead. Errors of the API server are waited out."""
        logger.info("waiting for the lease %s/%s", self._lease.namespace, self._lease.name)
        while not await self._attempt():  # noqa: ASYNC110 - the API server has no event for it
            await asyncio.sleep(RETRY_SECONDS)
        logger.info("leading as %s", self._lease.identity)

    async def hold(self) -> None:
        """Renew until it fails. Raises: LeadershipLost."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            renewed = await self._attempt()
            if not self.leading():
                raise LeadershipLost(
                    f"the lease could not be renewed for {RENEW_SECONDS:.0f} s"
                    if not renewed
                    else "the lease was renewed too late"
                )

    async def release(self) -> None:
        """Give the lease back, so that another replica takes it at once."""
        if not self.leading():
            return
        try:
            found = await self._read()
            if found and _holder(found) == self._lease.identity:
                found["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._replace(found)
        except ApiError as error:
            logger.warning("the lease could not be released, it runs out by itself: %s", error)
        finally:
            self._renewed = float("-inf")

    async def _attempt(self) -> bool:
        """Renew or take the lease. ``False``: not this time."""
        started = clock()
        try:
            took = await self._take()
        except ApiError as error:
            if not error.conflict:
                logger.warning("lease %s: %s", self._lease.name, error)
            return False
        if took:
            # What counts is when the renewal was asked for, not when its answer came.
            self._renewed = started
        return took

    async def _take(self) -> bool:
        found = await self._read()
        if found is None:
            await self._create()
            return True
        holder = _holder(found)
        if holder == self._lease.identity:
            await self._replace(self._claimed(found, transition=False))
            return True
        if self._renewed > float("-inf"):
            raise LeadershipLost(f"{holder or 'nobody'} holds the lease")
        if holder and not self._stood_still(found):
            return False
        await self._replace(self._claimed(found, transition=True))
        return True

    def _stood_still(self, found: dict[str, Any]) -> bool:
        """Whether the holder has renewed nothing for a whole term, by our own clock."""
        spec = found["spec"]
        mark = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if mark != self._seen:
            self._seen, self._seen_at = mark, clock()
        term = max(float(spec.get("leaseDurationSeconds") or 0), float(LEASE_SECONDS))
        return clock() - self._seen_at > term

    async def _read(self) -> dict[str, Any] | None:
        path = LEASE.path(self._lease.namespace, self._lease.name)
        try:
            return await self._api.request("GET", path, timeout=CALL_SECONDS)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def _create(self) -> None:
        metadata = {"name": self._lease.name, "namespace": self._lease.namespace}
        body = self._claimed(
            {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": {}},
            transition=False,
        )
        path = LEASE.path(self._lease.namespace)
        await self._api.request("POST", path, body=body, timeout=CALL_SECONDS)

    async def _replace(self, body: dict[str, Any]) -> None:
        """PUT with the resourceVersion that was read: of two replicas one gets a conflict."""
        path = LEASE.path(self._lease.namespace, self._lease.name)
        await self._api.request("PUT", path, body=body, timeout=CALL_SECONDS)

    def _claimed(self, lease: dict[str, Any], *, transition: bool) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(lease.get("spec") or {})
        if transition or "acquireTime" not in spec:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + int(transition)
        spec |= {
            "holderIdentity": self._lease.identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": now,
        }
        return lease | {"spec": spec}


def _holder(lease: dict[str, Any]) -> str:
    return (lease.get("spec") or {}).get("holderIdentity") or ""
