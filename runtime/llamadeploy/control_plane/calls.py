"""Calls from one service's run to another service of the deployment (a child task)."""

from __future__ import annotations

import json
from typing import Any

from llamadeploy.control_plane.services import Services
from llamadeploy.control_plane.validation import derived_id
from llamadeploy.exceptions import ConflictError, NotFoundError, ServiceCallError
from llamadeploy.orchestration.outbox import Outbox
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import ExecutionKey, NewTask, TaskRecord
from llamadeploy.types import SessionPolicy

MAX_DEPTH = 32
"""Calls within calls; more of them is a service that calls itself without end."""

MAX_PARENTS = 10_000
"""Parents whose calls' sessions are remembered, to delete them with the parent's success; those of
parents that were cancelled or died are forgotten here in time, and go by their retention."""


class Calls:
    """Makes child tasks. Their ids are derived, so that a repeated attempt of the parent finds
    the child it made instead of making a second."""

    def __init__(self, store: StateStore, outbox: Outbox, services: Services) -> None:
        self._store = store
        self._outbox = outbox
        self._services = services
        self._sessions: dict[str, list[str]] = {}

    async def call(
        self,
        parent: ExecutionKey,
        call_key: str,
        service: str,
        arguments: dict[str, Any],
        *,
        share_session: bool = False,
    ) -> str:
        """See :meth:`ControlPlane.call_service`."""
        caller = await self._store.get_task(parent.task_id)
        if caller is None or caller.attempt != parent.attempt or caller.state.terminal:
            raise ConflictError(
                f"attempt {parent.attempt} of task {parent.task_id} is not the current one"
            )
        service = await self._services.choose_known(service)
        child_id = derived_id("call", parent.task_id, call_key)
        line = await self._ancestors(caller)
        session = caller.session_id if share_session else derived_id("session", child_id)
        options = await self._services.options(service)
        refusal = self._services.refusal(service)
        if refusal is not None and await self._store.get_task(child_id) is None:
            raise NotFoundError(refusal)
        locked = any(a.session_id == session and a.service == service for a in line)
        created = await self._store.create_task(
            NewTask(
                task_id=child_id,
                session_id=session,
                service=service,
                input=json.dumps(arguments),
                new_session=not share_session,
                policy=SessionPolicy.PARALLEL if locked else options.session_policy,
                max_retries=options.max_retries,
                retry_on_error=options.retry_on_error,
                queue_timeout=options.queue_timeout,
                wait_timeout=options.wait_timeout,
                parent=parent.task_id,
                ancestors=tuple(a.task_id for a in line),
                detached_context=locked or options.session_policy is SessionPolicy.PARALLEL,
            )
        )
        if not share_session:
            self._remember(parent.task_id, session)
        await self._outbox.publish(created.publish)
        return created.task_id

    def _remember(self, parent_id: str, session_id: str) -> None:
        self._sessions.setdefault(parent_id, []).append(session_id)
        if len(self._sessions) > MAX_PARENTS:
            self._sessions.pop(next(iter(self._sessions)))

    def take_sessions(self, parent_id: str) -> list[str]:
        """The sessions that were made for the calls of a parent, which needs them no more."""
        return self._sessions.pop(parent_id, [])

    async def _ancestors(self, task: TaskRecord) -> list[TaskRecord]:
        """The task and those that called it, the eldest first."""
        line = [task]
        while line[-1].parent is not None:
            above = await self._store.get_task(line[-1].parent)
            if above is None:
                raise NotFoundError(f"the calling task {line[-1].parent} is gone")
            line.append(above)
            if len(line) > MAX_DEPTH:
                raise ServiceCallError(
                    f"service '{task.service}' is {MAX_DEPTH} calls deep: services that call each "
                    "other in a circle need an end"
                )
        return line[::-1]
