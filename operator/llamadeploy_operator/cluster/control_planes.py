"""What the operator asks of a Deployment's control plane: the only HTTP beside the API server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp

from llamadeploy_operator.draining import Depth

CALL_SECONDS = 5.0
"""For one call; whoever asked holds a slot of the queue meanwhile."""


class ControlPlaneError(Exception):
    """The control plane cannot be reached, or refuses. The text names no token."""


@dataclass(frozen=True, slots=True)
class Address:
    """Of one Deployment's control plane."""

    url: str
    token: str = field(repr=False)


class ControlPlanes(Protocol):
    """What draining needs."""

    async def refuse(self, address: Address, service: str, reason: str) -> None:
        """Let the service take no new task. Raises ControlPlaneError."""
        ...

    async def accept(self, address: Address, service: str) -> None:
        """Undo :meth:`refuse`. Raises ControlPlaneError."""
        ...

    async def depth(self, address: Address, service: str) -> Depth:
        """A service's unfinished tasks; none of one that it does not know. Raises
        ControlPlaneError."""
        ...

    async def end(self, address: Address, service: str, reason: str) -> int:
        """Let the service take no task any more and end those it has; gives how many. Raises
        ControlPlaneError."""
        ...


class HttpControlPlanes:
    """By HTTP; a connection for each call, for there are few."""

    async def refuse(self, address: Address, service: str, reason: str) -> None:
        """See :class:`ControlPlanes`."""
        path = f"/services/{quote(service, safe='')}/refuse"
        # A pinned, older control plane has no such route: it takes tasks until the end.
        await self._call(address, "POST", path, {"reason": reason}, absent="Not Found")

    async def accept(self, address: Address, service: str) -> None:
        """See :class:`ControlPlanes`."""
        path = f"/services/{quote(service, safe='')}/accept"
        await self._call(address, "POST", path, absent="Not Found")

    async def depth(self, address: Address, service: str) -> Depth:
        """See :class:`ControlPlanes`."""
        path = f"/services/{quote(service, safe='')}/scaling"
        found = await self._call(address, "GET", path, absent="Service not found")
        try:
            return Depth(*(int(found.get(name, 0)) for name in Depth.__slots__))
        except (AttributeError, TypeError, ValueError):
            raise ControlPlaneError(f"{address.url}{path}: not the answer of one") from None

    async def end(self, address: Address, service: str, reason: str) -> int:
        """See :class:`ControlPlanes`."""
        name = quote(service, safe="")
        await self._call(address, "POST", f"/services/deregister?service_name={name}")
        # A pinned, older control plane has no such route: what it has stays in its queue.
        answer = await self._call(
            address, "POST", f"/services/{name}/end", {"reason": reason}, absent="Not Found"
        )
        return int(answer.get("ended", 0))

    async def _call(
        self, address: Address, method: str, path: str, body: Any = None, *, absent: str = ""
    ) -> Any:
        """The answer; ``{}`` for a 404 that says ``absent``: any other may be a stranger's."""
        limit = aiohttp.ClientTimeout(total=CALL_SECONDS)
        headers = {"Authorization": f"Bearer {address.token}"}
        where = f"{method} {address.url}{path}"
        try:
            async with (
                aiohttp.ClientSession(timeout=limit, headers=headers) as session,
                session.request(
                    method, address.url + path, json=body, allow_redirects=False
                ) as answer,
            ):
                content = await answer.json()
                if answer.status == 404 and absent and content == {"detail": absent}:
                    return {}
                if answer.status != 200:
                    raise ControlPlaneError(f"{where}: answered {answer.status}")
                return content
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            what = str(error) or type(error).__name__
            raise ControlPlaneError(f"{where}: {what}") from error
