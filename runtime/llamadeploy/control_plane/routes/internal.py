"""The internal API: a worker's half of the state store, and calls between services.

Raw routes with msgspec, because every task passes here three times.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llamadeploy.exceptions import LlamaDeployError, NotFoundError, StoreUnavailableError
from llamadeploy.http.hot_routes import hot
from llamadeploy.state_stores.records import ExecutionKey
from llamadeploy.types import TaskResult
from llamadeploy.worker.operations import (
    CALL_PATH,
    ERRORS,
    EXECUTE_PATH,
    OPERATIONS,
    RESULTS_PATH,
    CallReply,
    CallRequest,
    OperationError,
)

log = logging.getLogger(__name__)

LONGEST_WAIT = 60.0
"""Seconds; below the idle time after which proxies cut a connection."""


class Executing(Protocol):
    """The control plane, as far as workers see it."""

    async def execute(self, op: str, request: Any) -> Any:
        """One of :data:`llamadeploy.worker.operations.OPERATIONS`."""
        ...

    async def call_service(
        self, parent: ExecutionKey, call_key: str, service: str, arguments: dict[str, Any]
    ) -> str:
        """Create (or find) a call's task; its id."""
        ...

    async def wait_result(self, task_id: str, timeout: float | None) -> TaskResult | None:
        """A task's result, waited for."""
        ...


class _Operation(msgspec.Struct):
    op: str
    request: msgspec.Raw


_encode = msgspec.json.Encoder().encode
_decode_batch = msgspec.json.Decoder(list[_Operation]).decode
_decode_call = msgspec.json.Decoder(CallRequest).decode
_decoders = {name: msgspec.json.Decoder(op.request) for name, op in OPERATIONS.items()}


def internal_router(control_plane: Executing) -> APIRouter:
    """The routes under ``/internal/v1``; the application asks for the token."""
    router = APIRouter()

    async def execute(request: Request) -> Response:
        try:
            batch = _decode_batch(await request.body())
        except msgspec.DecodeError as error:
            return _problem(400, f"the body must be a list of operations: {error}")
        if len(batch) == 1:
            answers = [await _execute(control_plane, batch[0])]
        else:
            # Together, so that the store commits them together.
            answers = await asyncio.gather(*[_execute(control_plane, item) for item in batch])
        return _reply(answers)

    async def call(request: Request) -> Response:
        try:
            asked = _decode_call(await request.body())
        except msgspec.DecodeError as error:
            return _problem(400, f"the body must be a call: {error}")
        task_id = await control_plane.call_service(
            asked.parent, asked.call_key, asked.service, asked.arguments
        )
        return _reply(CallReply(task_id))

    async def result(request: Request) -> Response:
        try:
            wait = float(request.query_params.get("wait", "0"))
        except ValueError:
            return _problem(400, "wait must be a number of seconds")
        wait = min(max(wait, 0.0), LONGEST_WAIT)
        found = await control_plane.wait_result(request.path_params["task_id"], wait)
        return _reply(None if found is None else found.model_dump())

    for path, method, endpoint in (
        (EXECUTE_PATH, "POST", execute),
        (CALL_PATH, "POST", call),
        (RESULTS_PATH + "/{task_id}", "GET", result),
    ):
        router.add_route(path, hot(_typed_errors(endpoint)), [method], include_in_schema=False)
    return router


async def _execute(control_plane: Executing, item: _Operation) -> dict[str, Any]:
    decoder = _decoders.get(item.op)
    if decoder is None:
        known = ", ".join(OPERATIONS)
        return _error("StoreError", f"unknown operation {item.op!r}; known are {known}")
    try:
        return {"ok": await control_plane.execute(item.op, decoder.decode(item.request))}
    except msgspec.DecodeError as error:
        return _error("StoreError", f"{item.op}: {error}")
    except LlamaDeployError as error:
        return _error(_type_name(error), str(error))
    except Exception as error:
        # One operation's fault must not take the others of its batch along.
        log.exception("operation %s failed", item.op)
        return _error("StoreError", f"{item.op} failed: {type(error).__name__}")


def _typed_errors(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Errors with their type, so that the worker can raise the same ones."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except NotFoundError as error:
            return _problem(404, str(error), error)
        except StoreUnavailableError as error:
            return _problem(503, str(error), error)
        except LlamaDeployError as error:
            return _problem(409, str(error), error)

    return answer


def _error(type_name: str, message: str) -> dict[str, Any]:
    return {"error": OperationError(type_name, message)}


def _type_name(error: LlamaDeployError) -> str:
    return next(
        (cls.__name__ for cls in type(error).__mro__ if cls.__name__ in ERRORS), "StoreError"
    )


def _reply(content: Any) -> Response:
    return Response(_encode(content), media_type="application/json")


def _problem(status: int, detail: str, error: LlamaDeployError | None = None) -> Response:
    body = {"detail": detail}
    if error is not None:
        body["type"] = _type_name(error)
    return Response(_encode(body), status_code=status, media_type="application/json")
