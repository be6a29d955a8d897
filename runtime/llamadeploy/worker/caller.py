"""A service calls another service of its deployment, by way of the control plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from llamadeploy.exceptions import ServiceCallError, StoreUnavailableError
from llamadeploy.state_stores.records import Execution, ExecutionKey
from llamadeploy.worker.backoff import Backoff
from llamadeploy.worker.control_plane_client import ControlPlaneClient
from llamadeploy.worker.operations import CallRequest


class Pausing(Protocol):
    """The worker, as far as a call concerns it."""

    def calling(self, key: ExecutionKey) -> AbstractAsyncContextManager[None]:
        """While the attempt ``key`` waits for another task."""
        ...

    def present(self, key: ExecutionKey) -> tuple[ExecutionKey, bool]:
        """The attempt that a run begun as ``key`` stands for now, and whether that leads."""
        ...


class RemoteServiceCaller:
    """:class:`llamadeploy.worker.contract.ServiceCaller` over HTTP.

    Called on the workflow loop; talks on the I/O loop, which :meth:`attach` tells.

    Args:
        on_child: told, on the I/O loop, the id of a task and of the task of a call it made.
    """

    def __init__(
        self, client: ControlPlaneClient, on_child: Callable[[str, str], None] | None = None
    ) -> None:
        self._client = client
        self._on_child = on_child
        self._io: asyncio.AbstractEventLoop | None = None
        self._worker: Pausing | None = None

    def attach(self, io: asyncio.AbstractEventLoop, worker: Pausing) -> None:
        """Before the first run."""
        self._io = io
        self._worker = worker

    async def call(
        self, execution: Execution, service: str, arguments: dict[str, Any], call_key: str
    ) -> str:
        """See :class:`llamadeploy.worker.contract.ServiceCaller`."""
        if self._io is None:
            raise RuntimeError("a service was called before the worker ran")
        request = CallRequest(execution.key, call_key, service, arguments)
        future = asyncio.run_coroutine_threadsafe(self._call(request), self._io)
        return await asyncio.wrap_future(future)

    async def _call(self, request: CallRequest) -> str:
        assert self._worker is not None  # noqa: S101 - attached together with the loop
        begun = request.parent
        async with self._worker.calling(begun):
            parent, leads = self._worker.present(begun)
            result = await self._result(msgspec.structs.replace(request, parent=parent), leads)
        if result["data"].get("state") in ("failed", "cancelled"):
            raise ServiceCallError(
                f"the task of service {request.service!r} {result['data']['state']}: "
                f"{result['result']}"
            )
        text: str = result["result"]
        return text

    async def _result(self, request: CallRequest, leads: bool) -> dict[str, Any]:
        """Ask until there is an answer: a run that is not wanted any more is cancelled here."""
        backoff = Backoff()
        task_id: str | None = None
        while True:
            try:
                if task_id is None:
                    task_id = await self._client.call(request)
                    if self._on_child is not None and leads:
                        self._on_child(request.parent.task_id, task_id)
                result = await self._client.result(task_id)
            except StoreUnavailableError:
                await asyncio.sleep(backoff.next())
                continue
            backoff = Backoff()
            if result is not None:
                return result
