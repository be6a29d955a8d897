"""Run a driver's steps and print one JSON document: `{step: {"value": ...} | {"error": ...}}`.

A step is a function of the client. Written as a generator that yields every SDK call, it runs
with the async client (calls are awaited, streams collected) and with `client.sync` (calls have
already returned). Written as a coroutine function it runs with the async client only.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from llama_deploy import Client
from pydantic import BaseModel, ValidationError

STEPS: list[Callable[..., Any]] = []
DEADLINE_SECONDS = 30


def step(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a step under its function's name, in the order of the file."""
    STEPS.append(function)
    return function


def main() -> None:
    """Parse the server's addresses, run every step, print the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--api", required=True)
    parser.add_argument("--control-plane", required=True)
    parser.add_argument("--deployment", required=True)
    parser.add_argument("--sync", action="store_true")
    options = parser.parse_args()
    client = Client(api_server_url=options.api, control_plane_url=options.control_plane, timeout=60)
    results = {}
    for each in STEPS:
        if options.sync and inspect.iscoroutinefunction(each):
            continue
        try:
            value = _run(each, client, options.deployment, options.sync)
            results[each.__name__] = {"value": value}
        except Exception:  # noqa: BLE001 - the traceback is the step's result, a test asserts it
            results[each.__name__] = {"error": traceback.format_exc()}
    json.dump(results, sys.stdout, default=_plain)


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


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return repr(value)
