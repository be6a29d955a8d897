"""The one place that reaches into kopf: its private functions ``continuous_watch`` and
``watch_objs`` are wrapped.

Why: kopf drops bookmarks before handlers see them, so nobody could tell a quiet watch from a dead
one; it ends a watcher for good on any error event but 410; and it would hold every object in full.
kopf's version is pinned, and a test fails when these functions move.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from kopf._cogs.clients import watching

from llamadeploy_operator.cluster.cache import ObjectKey
from llamadeploy_operator.cluster.kinds import Kind
from llamadeploy_operator.cluster.sink import Sink, slim
from llamadeploy_operator.watch_limits import WatchLimits

logger = logging.getLogger(__name__)

#: Seconds before a list that follows an error event.
ERROR_PAUSE = 5.0

Stream = Callable[..., AsyncIterator[Any]]

#: The seam: the parameters that we rely on, by function.
SEAM = {
    "continuous_watch": {"settings", "resource", "namespace", "operator_pause_waiter"},
    "watch_objs": {"settings", "resource", "namespace", "since", "operator_pause_waiter"},
}


def check_seam() -> None:
    """Raises: RuntimeError when kopf is not built as this module expects."""
    for name, parameters in SEAM.items():
        function: Any = getattr(watching, name, None)
        if not inspect.isasyncgenfunction(getattr(function, "__wrapped__", function)):
            raise RuntimeError(f"kopf has no asynchronous generator {name}() any more")
        if not parameters <= set(inspect.signature(function).parameters):
            raise RuntimeError(f"kopf's {name}() takes other parameters than {sorted(parameters)}")


def install(sink: Sink, kinds: list[Kind], limits: WatchLimits) -> None:
    """Let all of kopf's watches of ``kinds`` feed ``sink``. Once in a process."""
    check_seam()
    by_resource = {(kind.group, kind.plural): kind for kind in kinds}

    def kind_of(resource: Any) -> Kind | None:
        return by_resource.get((resource.group, resource.plural))

    watching.continuous_watch = _feeding(watching.continuous_watch, sink, kind_of)
    watching.watch_objs = _guarded(watching.watch_objs, sink, kind_of, limits)


def _feeding(original: Stream, sink: Sink, kind_of: Callable[[Any], Kind | None]) -> Stream:
    """One list and the watches that follow it. kopf itself gets only the slim objects."""

    async def continuous_watch(**arguments: Any) -> AsyncIterator[Any]:
        kind, namespace = kind_of(arguments["resource"]), arguments["namespace"]
        found: set[ObjectKey] = set()
        async for event in original(**arguments):
            if kind is None:
                yield event
                continue
            if event is watching.Bookmark.LISTED:
                sink.listed(kind, namespace, found)
                found = set()
            elif not isinstance(event, watching.Bookmark) and event["type"] != "BOOKMARK":
                body = event["object"]
                if event["type"] == "DELETED":
                    sink.gone(kind, body)
                elif event["type"] is None:
                    # A list's items come without their kind. The sink tells of them: kopf takes
                    # half a millisecond for each.
                    body = {"apiVersion": kind.api_version, "kind": kind.kind} | body
                    found.add(sink.found(kind, body))
                    continue
                elif not sink.seen(kind, body)[1]:
                    continue
                event = {"type": event["type"], "object": slim(body)}
            yield event

    continuous_watch.__wrapped__ = original  # type: ignore[attr-defined]
    return continuous_watch


def _guarded(
    original: Stream, sink: Sink, kind_of: Callable[[Any], Kind | None], limits: WatchLimits
) -> Stream:
    """One request of a watch: heard by the watchdog, given up when silent, and ended, so that kopf
    lists again, by every error event."""
    clock = time.monotonic

    async def watch_objs(**arguments: Any) -> AsyncIterator[Any]:
        kind, namespace = kind_of(arguments["resource"]), arguments["namespace"]
        stream = original(**arguments)
        begun = clock()
        try:
            while True:
                try:
                    event = await asyncio.wait_for(anext(stream), timeout=limits.silence)
                except StopAsyncIteration:
                    # Ended by the API server when its time was up: that is a sign of life, and the
                    # only one of a kind that had no event since the API server started, for then
                    # its cache sends no bookmarks. A broken connection ends before.
                    if kind is not None and clock() - begun >= limits.request:
                        sink.alive(kind, namespace)
                    return
                except TimeoutError:
                    # To list is slower than to go on from where we were, and sure to miss nothing.
                    logger.warning("watch of %s: silent, listed anew", arguments["resource"])
                    if kind is not None:
                        sink.silent(kind, namespace)
                    yield {"type": "ERROR", "object": {"code": 410}}
                    return
                if event["type"] == "ERROR" and event["object"].get("code") != 410:
                    logger.warning("watch of %s: %s", arguments["resource"], event["object"])
                    await asyncio.sleep(ERROR_PAUSE)
                    event = {"type": "ERROR", "object": event["object"] | {"code": 410}}
                elif event["type"] != "ERROR" and kind is not None:
                    sink.alive(kind, namespace)
                yield event
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    watch_objs.__wrapped__ = original  # type: ignore[attr-defined]
    return watch_objs
