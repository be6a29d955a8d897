"""The steps of a driver, and how they run: each on its own, its value or its traceback reported.

A step is a function of the client and the deployment's name. Written as a generator that yields
every SDK call, it runs with the async client (calls are awaited, streams collected) and with
`client.sync` (calls have already returned). Written as a coroutine function it runs with the async
client only.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from collections.abc import Callable
from typing import Any

from llama_deploy import Client
from pydantic import ValidationError

DEADLINE_SECONDS = 30


class Steps:
    """Decorator that collects a driver's steps in the order of its file."""

    def __init__(self) -> None:
        self._functions: list[Callable[..., Any]] = []

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self._functions.append(function)
        return function

    def run(self, api: str, control_plane: str, deployment: str, sync: bool) -> dict[str, Any]:
        """`{step: {"value": ...} | {"error": traceback}}` of all steps that have this mode."""
        client = Client(api_server_url=api, control_plane_url=control_plane, timeout=60)
        results = {}
        for each in self._functions:
            if sync and inspect.iscoroutinefunction(each):
                continue
            try:
                results[each.__name__] = {"value": _run(each, client, deployment, sync)}
            except Exception:  # noqa: BLE001 - the traceback is the step's result, a test asserts it
                results[each.__name__] = {"error": traceback.format_exc()}
        return results


def until(call: Callable[[], Any], what: str) -> Any:
    """Sub-generator: repeat an SDK call until it gives a result; `results()` of a task that is
    not ready raises ValidationError, because the SDK parses `null`."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            value = yield call()
        except ValidationError:
            value = None
        if value is not None:
            return value
        time.sleep(0.1)
    raise TimeoutError(f"{what}: nothing within {DEADLINE_SECONDS} s")


def _run(function: Callable[..., Any], client: Client, deployment: str, sync: bool) -> Any:
    if inspect.iscoroutinefunction(function):
        return asyncio.run(function(client, deployment))
    if sync:
        return _drive_sync(function(client.sync, deployment))
    return asyncio.run(_drive_async(function(client, deployment)))


def _drive_sync(calls: Any) -> Any:
    value = None
    while True:
        try:
            value = calls.send(value)
        except StopIteration as end:
            return end.value


async def _drive_async(calls: Any) -> Any:
    value: Any = None
    failure: Exception | None = None
    while True:
        try:
            call = calls.throw(failure) if failure else calls.send(value)
        except StopIteration as end:
            return end.value
        value, failure = None, None
        try:
            if inspect.isasyncgen(call):
                value = [item async for item in call]
            else:
                value = await call
        except Exception as error:  # noqa: BLE001 - thrown into the step at its yield
            failure = error
