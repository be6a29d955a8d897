"""What the autoscaler asks of control planes: how much work a service has, and to know it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from llamadeploy.types import ServiceDefinition
from llamadeploy_operator.autoscaling import Reading
from llamadeploy_operator.cluster.control_planes import Address, ControlPlaneError

ANSWER_SECONDS = 5.0
"""For an answer, beyond the time that was asked for."""

MAX_POLLS = 2000
"""Long polls at a time, one for each autoscaled service; more of them take turns."""


class UnknownServiceError(ControlPlaneError):
    """The control plane does not know the service (any more)."""


@dataclass(frozen=True, slots=True)
class Load:
    """A reply of ``/scaling``.

    Attributes:
        version: for the next question.
        problem: why other numbers of workers would not help now; ``None``: they would.
    """

    reading: Reading
    version: str
    problem: str | None


class ServiceLoads:
    """By HTTP, with connections that are kept. One for the process."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def load(
        self, address: Address, service: str, version: str = "", wait: float = 0.0
    ) -> Load:
        """The work of a service; with ``version`` as soon as that does not hold any more, or after
        ``wait`` seconds.

        Raises:
            UnknownServiceError: the control plane does not know the service.
            ControlPlaneError: it cannot be reached, or cannot know.
        """
        path = f"/services/{quote(service, safe='')}/scaling"
        query = f"?wait={wait:.1f}&version={quote(version, safe='')}" if version and wait else ""
        found = await self._call(address, "GET", path + query, None, wait + ANSWER_SECONDS)
        try:
            return _load(found)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ControlPlaneError(f"{address.url}{path}: not the answer of one") from None

    async def register(self, address: Address, service: ServiceDefinition) -> None:
        """Make the service known, whether or not a worker of it runs. Raises ControlPlaneError."""
        body = service.model_dump(mode="json", exclude_unset=True)
        await self._call(address, "POST", "/services/register", body, ANSWER_SECONDS)

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(
        self, address: Address, method: str, path: str, body: Any, seconds: float
    ) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=MAX_POLLS))
        where = f"{method} {address.url}{path.partition('?')[0]}"
        try:
            async with (
                asyncio.timeout(None) as limit,
                self._session.request(
                    method,
                    address.url + path,
                    json=body,
                    headers={"Authorization": f"Bearer {address.token}"},
                    # Not in total: it may have to wait for a connection first.
                    timeout=aiohttp.ClientTimeout(sock_connect=ANSWER_SECONDS, sock_read=seconds),
                    allow_redirects=False,
                ) as answer,
            ):
                limit.reschedule(asyncio.get_running_loop().time() + ANSWER_SECONDS)
                content = await answer.json()
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ControlPlaneError(f"{where}: {str(error) or type(error).__name__}") from error
        if status == 404 and content == {"detail": "Service not found"}:
            raise UnknownServiceError(f"{where}: it does not know the service")
        if status != 200:
            detail = content.get("detail") if isinstance(content, dict) else None
            raise ControlPlaneError(f"{where}: answered {status} ({str(detail)[:200]})")
        return content


def _load(found: Any) -> Load:
    reading = Reading(
        at=time.time(),
        ready=int(found["ready"]),
        unacked=int(found["unacked"]),
        custody=int(found["custody"]),
        parked=int(found["parked"]),
        oldest_seconds=float(found["oldest_seconds"]),
        in_flight=tuple((str(each["name"]), int(each["in_flight"])) for each in found["replicas"]),
    )
    # An older control plane has neither.
    problem = found.get("problem")
    return Load(reading, str(found.get("version", "")), None if problem is None else str(problem))
