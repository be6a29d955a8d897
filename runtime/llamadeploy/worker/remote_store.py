"""The worker's half of the state store, reached through the control plane's internal API."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from llamadeploy.exceptions import LlamaDeployError, StoreError, StoreUnavailableError
from llamadeploy.state_stores.records import (
    Completion,
    ExecutionKey,
    Finished,
    InboundEvent,
    NewEvent,
    ParkRequest,
    Renewal,
    StartReply,
    StartRequest,
)
from llamadeploy.worker.control_plane_client import ControlPlaneClient
from llamadeploy.worker.operations import (
    ERRORS,
    EXECUTE_PATH,
    OPERATIONS,
    AppendRequest,
    DeadLetterRequest,
    InboundRequest,
    OperationError,
    RenewRequest,
    ResidentRequest,
)

REQUESTS_IN_FLIGHT = 2
"""Batches on their way at one time: while one waits for the disk, the next one fills."""

BATCH_CALLS = 512
BATCH_BYTES = 4 << 20
"""A batch ends with the call that reaches one of these."""

_encode = msgspec.json.Encoder().encode
_decoders = {name: msgspec.json.Decoder(op.reply) for name, op in OPERATIONS.items()}


class _Answer(msgspec.Struct):
    ok: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: OperationError | None = None


_decode_answers = msgspec.json.Decoder(list[_Answer]).decode


class _Call:
    __slots__ = ("asked", "body", "future", "op")

    def __init__(self, op: str, body: bytes, future: asyncio.Future[Any]) -> None:
        self.asked = time.perf_counter()
        self.op = op
        self.body = body
        self.future = future


class RemoteExecutionStore:
    """``ExecutionStore`` over HTTP. Calls made in one turn of the loop, or while batches are on
    their way, travel together, so that they share a request there and a commit in the store.

    Each method raises ``StoreUnavailableError`` when the control plane (or its store) cannot be
    reached, and ``StoreError`` when it refused the call.

    Args:
        url: the control plane's base URL.
        token: the deployment's API token.
        client: a connection to share with others instead of ``url`` and ``token``.
        on_operation: told each operation's name and how many seconds its answer took.
    """

    def __init__(
        self,
        url: str = "",
        token: str | None = None,
        *,
        client: ControlPlaneClient | None = None,
        on_operation: Callable[[str, float], None] | None = None,
    ) -> None:
        self._client = client or ControlPlaneClient(url, token)
        self._waiting: deque[_Call] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._on_operation = on_operation

    # -- operations ----------------------------------------------------------------------------
    async def start(self, request: StartRequest) -> StartReply:
        """See :class:`llamadeploy.state_stores.base.ExecutionStore`, as for all of these."""
        reply: StartReply = await self._call("start", request)
        return reply

    async def renew(
        self,
        worker_id: str,
        keys: Sequence[ExecutionKey],
        lease: float,
        *,
        custody: bool = False,
    ) -> list[Renewal]:
        reply: list[Renewal] = await self._call(
            "renew", RenewRequest(worker_id, tuple(keys), lease, custody)
        )
        return reply

    async def append_events(self, key: ExecutionKey, events: Sequence[NewEvent]) -> bool:
        reply: bool = await self._call("append_events", AppendRequest(key, tuple(events)))
        return reply

    async def read_inbound(self, key: ExecutionKey, after: int) -> list[InboundEvent]:
        reply: list[InboundEvent] = await self._call("read_inbound", InboundRequest(key, after))
        return reply

    async def park(self, request: ParkRequest) -> Finished:
        reply: Finished = await self._call("park", request)
        return reply

    async def finish(self, completion: Completion) -> Finished:
        reply: Finished = await self._call("finish", completion)
        return reply

    async def release(self, key: ExecutionKey) -> Finished:
        reply: Finished = await self._call("release", key)
        return reply

    async def note_resident(self, key: ExecutionKey, reason: str) -> bool:
        reply: bool = await self._call("note_resident", ResidentRequest(key, reason))
        return reply

    async def add_dead_letter(self, reason: str, message: str, service: str = "") -> int:
        reply: int = await self._call(
            "add_dead_letter", DeadLetterRequest(reason, message, service)
        )
        return reply

    async def aclose(self) -> None:
        """End what is on its way and close the connection."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        _fail(self._waiting, StoreUnavailableError("the connection was closed"))
        await self._client.aclose()

    # -- batches -------------------------------------------------------------------------------
    def _call(self, op: str, request: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        try:
            body = b'{"op":"%b","request":%b}' % (op.encode(), _encode(request))
        except (TypeError, ValueError) as error:  # a UnicodeEncodeError is a ValueError
            refused = loop.create_future()
            refused.set_exception(StoreError(f"{op} cannot be sent: {error}"))
            return refused
        call = _Call(op, body, loop.create_future())
        self._waiting.append(call)
        self._schedule(loop)
        return call.future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._scheduled and len(self._sending) < REQUESTS_IN_FLIGHT:
            self._scheduled = True
            loop.call_soon(self._flush, loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        batch: list[_Call] = []
        size = 0
        while self._waiting and len(batch) < BATCH_CALLS and size < BATCH_BYTES:
            call = self._waiting.popleft()
            if not call.future.done():  # else: its caller was cancelled
                batch.append(call)
                size += len(call.body)
        if not batch:
            return
        task = loop.create_task(self._send(batch))
        self._sending.add(task)
        task.add_done_callback(self._sent)
        if self._waiting:
            self._schedule(loop)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if self._waiting:
            self._schedule(task.get_loop())

    async def _send(self, batch: list[_Call]) -> None:
        body = b"[%b]" % b",".join([call.body for call in batch])
        try:
            answers = _decode_answers(await self._client.request("POST", EXECUTE_PATH, body))
        except LlamaDeployError as error:
            _fail(batch, error)
            return
        except msgspec.DecodeError as error:
            _fail(batch, StoreError(f"the control plane's answer is not understood: {error}"))
            return
        except asyncio.CancelledError:
            _fail(batch, StoreUnavailableError("the connection was closed"))
            raise
        if len(answers) != len(batch):
            _fail(batch, StoreError("the control plane's answer does not fit the request"))
            return
        for call, answer in zip(batch, answers, strict=True):
            _settle(call, answer)
        if self._on_operation is not None:
            now = time.perf_counter()
            for call in batch:
                self._on_operation(call.op, now - call.asked)


def _settle(call: _Call, answer: _Answer) -> None:
    if call.future.done():
        return
    if answer.error is not None:
        call.future.set_exception(ERRORS.get(answer.error.type, StoreError)(answer.error.message))
        return
    if answer.ok is msgspec.UNSET:
        call.future.set_exception(StoreError("the control plane's answer is empty"))
        return
    try:
        call.future.set_result(_decoders[call.op].decode(answer.ok))
    except msgspec.DecodeError as error:
        call.future.set_exception(
            StoreError(f"the control plane's answer to {call.op} is not understood: {error}")
        )


def _fail(calls: Sequence[_Call] | deque[_Call], error: LlamaDeployError) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(error)
