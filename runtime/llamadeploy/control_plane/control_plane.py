"""The control plane of one deployment: every use case, whoever calls (HTTP, API server, worker)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from llamadeploy.control_plane.calls import Calls
from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.control_plane.service_operations import ServiceOperations
from llamadeploy.control_plane.services import Services
from llamadeploy.control_plane.sessions import Sessions
from llamadeploy.control_plane.streams import StreamItem
from llamadeploy.control_plane.tailing import tail
from llamadeploy.control_plane.tasks import Tasks, result_of, status_of
from llamadeploy.exceptions import (
    LlamaDeployError,
    NotFoundError,
    StoreError,
)
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.config import QueueConfig
from llamadeploy.messages import QueueMessage
from llamadeploy.metrics.deployment import DeploymentMetrics
from llamadeploy.metrics.instruments import Family
from llamadeploy.orchestration.messages import Messages
from llamadeploy.orchestration.orchestration import Orchestration
from llamadeploy.orchestration.outbox import Outbox, PublishCallback
from llamadeploy.orchestration.router import Router
from llamadeploy.orchestrator import BaseOrchestrator, SimpleOrchestrator, is_simple
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import (
    Completion,
    Created,
    DeadLetter,
    Execution,
    ExecutionKey,
    Finished,
    InboundOutcome,
    TaskQuery,
    TaskRecord,
)
from llamadeploy.types import (
    CancelOutcome,
    EventDefinition,
    ServiceDefinition,
    SessionDefinition,
    TaskDefinition,
    TaskResult,
    TaskState,
    TaskStatus,
    generate_id,
)
from llamadeploy.worker.operations import invoke

log = logging.getLogger(__name__)


PING_SECONDS = 3.0
"""What store and queue get to answer a readiness check, which itself has five."""


class ControlPlane:
    """Everything that can be asked of one deployment.

    Args:
        store: opened for this deployment; closed by whoever opened it.
        queue: the deployment's message queue; closed by whoever opened it.
        name: the deployment's name, used in messages to users.
        namespace: prefix of the topics.
        orchestrator: a custom one decides where tasks go; by default the service they name.
        default_service: where a task goes that names no service.
        retention: seconds for which finished tasks and idle sessions are kept; by default
            ``config.retention``.
        on_publish: awaited with each message about a task after the queue has it.
        orchestrates: do the orchestrator's work here too; false where processes of their own do it
            (``llamadeploy orchestrator``), which takes a shared store and queue.

    Attributes:
        queue_config: what ``/queue_config`` tells (without credentials), if anything.
        operations: how its services are, and changes of their workers.
    """

    def __init__(
        self,
        store: StateStore,
        queue: MessageQueue,
        *,
        name: str,
        namespace: str,
        orchestrator: BaseOrchestrator | None = None,
        config: ControlPlaneConfig | None = None,
        default_service: str | None = None,
        retention: float | None = None,
        on_publish: PublishCallback | None = None,
        orchestrates: bool = True,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.config = config or ControlPlaneConfig.without_environment(topic_namespace=namespace)
        self.queue_config: QueueConfig | None = None
        self.store = store
        self.queue = queue
        self.publisher_id = f"ControlPlane-{generate_id()}"
        self._metrics = DeploymentMetrics(name)
        self._outbox = Outbox(
            store,
            queue,
            namespace=namespace,
            publisher_id=self.publisher_id,
            wake=self._wake,
            on_publish=on_publish,
        )
        self._services = Services(store, deployment=name, default=default_service)
        self.operations = ServiceOperations(store, self._services, self.queue_trouble)
        self._sessions = Sessions(store, self._outbox)
        self._calls = Calls(store, self._outbox, self._services)
        # Also with the simple rules: a task of an earlier, custom orchestrator may wait for them.
        router = Router(store, self._outbox, orchestrator or SimpleOrchestrator())
        simple = orchestrator is None or is_simple(orchestrator)
        self._tasks = Tasks(
            store, self._outbox, self._services, self._sessions, None if simple else router
        )
        self._messages = Messages(store, self._outbox, router, self._new_task)
        self._running = False
        self._orchestration: Orchestration | None = None
        if orchestrates:
            self._orchestration = Orchestration(
                store,
                queue,
                self._outbox,
                name=name,
                namespace=namespace,
                services=self._services.names,
                process=self.process_message,
                retention=self.config.retention if retention is None else retention,
            )

    @property
    def default_service(self) -> str | None:
        """Where a task goes that names no service; a reload may change it."""
        return self._services.default

    @default_service.setter
    def default_service(self, name: str | None) -> None:
        self._services.default = name

    # -- life ----------------------------------------------------------------------------------
    async def start(self) -> None:
        """Begin to work, and to orchestrate where nobody else does.

        Raises:
            StoreUnavailableError: the store cannot be reached.
        """
        self.store.observe(self._metrics)
        await self._services.refresh()
        self._running = True
        if self._orchestration is not None:
            self._orchestration.start()

    async def stop(self) -> None:
        """Finish what was begun. Store and queue stay open. Idempotent."""
        self._running = False
        if self._orchestration is not None:
            await self._orchestration.stop()
        await self._sessions.settled()
        await self._outbox.aclose()

    async def problems(self) -> list[str]:
        """What is wrong, empty where all is well."""
        obstacles, trouble = await asyncio.gather(self.obstacles(), self.queue_trouble())
        return [*obstacles, *trouble]

    async def obstacles(self) -> list[str]:
        """Why it cannot take tasks, empty when it can: for that it needs its store alone."""
        found = [] if self._running else ["the control plane is not running"]
        if self._orchestration is not None:
            found += self._orchestration.problems()
        return found + await _unanswered("state store", self.store.ping)

    async def queue_trouble(self) -> list[str]:
        """Why tasks wait in the outbox, empty when the queue takes them."""
        return await _unanswered("queue", self.queue.ping)

    async def metrics(self) -> list[Family]:
        """What happened since this object was made, and how things stand now."""
        with contextlib.suppress(StoreError):  # the gauges will say so
            await self._services.freshen()
        return await self._metrics.collect(
            self.store, self.queue, self.namespace, self._services.known()
        )

    # -- tasks ---------------------------------------------------------------------------------
    async def create_task(
        self,
        task: TaskDefinition,
        *,
        session_id: str | None,
        new_session: bool = False,
        honour_task_id: bool = True,
        idempotency_key: str | None = None,
    ) -> Created:
        """Store the task and publish it; from here on it ends, with one result.

        Args:
            session_id: ``None`` makes a session for it, as ``new_session`` does with this id.
            honour_task_id: use the definition's ``task_id``; a repeat finds the same task.
            idempotency_key: the same key finds the same task, whatever the ids are.

        Raises:
            NotFoundError: no such session; or the service was removed.
            ConflictError: the id or key was used for another task.
            SessionBusyError: the service refuses a second task of the session.
            ConfigurationError: no service, another session in the definition, or (as
                InvalidFieldError) input that is not the JSON of an object.
        """
        created = await self._tasks.create(
            task,
            session_id=session_id,
            new_session=new_session,
            honour_task_id=honour_task_id,
            idempotency_key=idempotency_key,
        )
        await self._tasks.publish(created)
        return created

    async def _new_task(self, task: TaskDefinition) -> None:
        await self.create_task(task, session_id=task.session_id)

    async def run_task(
        self,
        task: TaskDefinition,
        *,
        session_id: str | None,
        idempotency_key: str | None = None,
    ) -> TaskRecord:
        """Create a task (with an id of its own) and return it when it has ended.

        Without a session it gets one, which is deleted when it succeeded, unless a repeat of the
        request (``idempotency_key``) may ask for the result again. Cancelling the call leaves the
        task alone. Raises as :meth:`create_task`.
        """
        own_session = session_id is None and idempotency_key is None
        created = await self._tasks.create(
            task,
            session_id=session_id,
            honour_task_id=False,
            idempotency_key=idempotency_key,
            passing=own_session,
        )
        record = await self._tasks.publish_and_wait(created)
        if own_session and record.state is TaskState.SUCCEEDED:
            self._sessions.delete_soon(record.session_id)
        return record

    async def wait_task(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """The finished task, ``None`` after ``timeout`` seconds. Raises NotFoundError."""
        return await self._tasks.wait(task_id, timeout)

    async def wait_result(self, task_id: str, timeout: float | None) -> TaskResult | None:
        """The task's result, ``None`` after ``timeout`` seconds. Raises NotFoundError."""
        record = await self._tasks.wait(task_id, timeout)
        return result_of(record) if record is not None else None

    async def result(
        self, session_id: str, task_id: str, timeout: float = 0.0
    ) -> TaskResult | None:
        """The result if there is one within ``timeout`` seconds.

        Raises:
            NotFoundError: no such session or task.
        """
        record = await self._tasks.get(session_id, task_id)
        if timeout > 0 and not record.state.terminal:
            record = await self._tasks.wait(task_id, timeout) or record
        return result_of(record)

    async def status(self, session_id: str, task_id: str) -> TaskStatus:
        """Raises NotFoundError."""
        return status_of(await self._tasks.get(session_id, task_id))

    async def session_of(self, task_id: str, session_id: str | None) -> str:
        """The session of a task; where one is named it must be that one. Raises NotFoundError."""
        return await self._tasks.session_of(task_id, session_id)

    async def check_task(self, session_id: str, task_id: str) -> None:
        """Raises NotFoundError unless the task is one of the session's."""
        await self._tasks.get(session_id, task_id)

    def stream(
        self, task_id: str, after: int = 0, legacy: bool = True, follow: bool = True
    ) -> AsyncIterator[list[StreamItem]]:
        """Batches of the task's events; see :func:`llamadeploy.control_plane.tailing.tail`."""
        return tail(self.store, task_id, after=after, legacy=legacy, follow=follow)

    async def stream_is_over(self, task_id: str, after: int) -> bool:
        """Whether the task has ended and has no event behind ``after``. Raises NotFoundError."""
        page = await self.store.read_log(task_id, after, 1)
        return page.state.terminal and not page.events

    async def send_event(
        self, session_id: str, task_id: str, event: EventDefinition
    ) -> InboundOutcome:
        """Store an event for the task and wake the task.

        A finished task takes no event: then ``state`` of the outcome is terminal.

        Raises:
            NotFoundError: no such session or task.
            InvalidFieldError: the event is not the JSON of an object.
        """
        return await self._tasks.send_event(session_id, task_id, event)

    async def cancel(
        self, session_id: str, task_id: str, reason: str = "cancelled by a client"
    ) -> CancelOutcome:
        """End the task unless it has finished. Raises NotFoundError."""
        return await self._tasks.cancel(session_id, task_id, reason)

    async def find_tasks(self, query: TaskQuery) -> list[TaskStatus]:
        """Where the tasks stand that the query chooses, the newest first."""
        return [status_of(record) for record in await self._tasks.find(query)]

    def refuse_tasks(self, reason: str) -> None:
        """Take no task from clients any more; they get a ConflictError with ``reason``."""
        self._tasks.closed = reason

    def accept_tasks(self) -> None:
        """Undo :meth:`refuse_tasks`."""
        self._tasks.closed = None

    async def end_all_tasks(self, reason: str) -> int:
        """Cancel every unfinished task; return how many, once those who wait have heard of it."""
        return await self._tasks.end_all(reason)

    async def end_service(self, name: str, reason: str) -> int:
        """Cancel every unfinished task of a service, known (any more) or not; return how many."""
        return await self._tasks.end_all(reason, name)

    async def list_tasks(self, session_id: str | None = None) -> list[TaskDefinition]:
        """Definitions, oldest first. Raises NotFoundError: no such session."""
        return await self._tasks.definitions(session_id)

    async def current_task(self, session_id: str) -> TaskDefinition | None:
        """The session's newest task. Raises NotFoundError: no such session."""
        return await self._tasks.current(session_id)

    # -- sessions ------------------------------------------------------------------------------
    async def create_session(self, session_id: str | None = None) -> str:
        """Returns the id. Raises ConflictError where it exists."""
        return await self._sessions.create(session_id)

    async def get_session(self, session_id: str) -> SessionDefinition:
        """Raises NotFoundError."""
        return await self._sessions.get(session_id)

    async def list_sessions(self) -> list[SessionDefinition]:
        """All sessions with their task ids and state."""
        return await self._sessions.all()

    async def delete_session(self, session_id: str) -> None:
        """Forget it with its tasks, cancelling what is unfinished. Idempotent."""
        await self._sessions.delete(session_id)

    def delete_session_soon(self, session_id: str) -> None:
        """The same behind a reply; listing sessions waits for it."""
        self._sessions.delete_soon(session_id)

    async def session_state(self, session_id: str) -> dict[str, Any]:
        """Raises NotFoundError."""
        return await self._sessions.state(session_id)

    async def merge_session_state(self, session_id: str, patch: dict[str, Any]) -> None:
        """Shallow merge. Raises NotFoundError."""
        await self._sessions.merge_state(session_id, patch)

    # -- services ------------------------------------------------------------------------------
    def declare_service(self, service: ServiceDefinition) -> None:
        """The deployment has this service, with these options, before any worker registers it."""
        self._services.declare(service)

    def withdraw_service(self, name: str) -> None:
        """Undo :meth:`declare_service`. Idempotent."""
        self._services.withdraw(name)

    async def register_service(self, service: ServiceDefinition) -> ControlPlaneConfig:
        """Keep the definition; the reply is what 0.8.1's services expect."""
        await self._services.register(service)
        return self.config

    async def deregister_service(self, name: str) -> None:
        """Idempotent. A declared service stays declared."""
        await self._services.deregister(name)

    async def refuse_service(self, name: str, reason: str) -> None:
        """Let a service take no new task: those get a NotFoundError with ``reason``, also where
        another service calls it. What it has ends as usual. Idempotent."""
        await self._services.refuse(name, reason)

    async def accept_service(self, name: str) -> None:
        """Undo :meth:`refuse_service`. Idempotent."""
        await self._services.accept(name)

    async def get_service(self, name: str) -> ServiceDefinition:
        """Raises NotFoundError."""
        return await self._services.get(name)

    async def list_services(self) -> dict[str, ServiceDefinition]:
        """Registered and declared services by name."""
        return await self._services.all()

    async def choose_service(self, name: str | None) -> str:
        """A known service: ``name``, or the default one.

        Raises:
            ConfigurationError: neither is set.
            NotFoundError: the deployment has no such service.
        """
        return await self._services.choose_known(name)

    # -- dead letters --------------------------------------------------------------------------
    async def dead_letters(self) -> list[DeadLetter]:
        """Work that was given up."""
        return await self.store.list_dead_letters()

    async def retry_dead_letter(self, letter_id: int) -> None:
        """Queue the letter's task again. Raises NotFoundError."""
        await self._outbox.publish(await self.store.retry_dead_letter(letter_id))

    async def delete_dead_letter(self, letter_id: int) -> None:
        """Raises NotFoundError."""
        if not await self.store.delete_dead_letter(letter_id):
            raise NotFoundError("Dead letter not found")

    # -- messages ------------------------------------------------------------------------------
    async def process_message(self, message: QueueMessage) -> None:
        """Act on a message to the control plane.

        Raises:
            ConfigurationError: its action or data is not one that a control plane takes.
            NotFoundError: it is about a session or task that does not exist.
        """
        await self._messages.process(message)

    async def complete(self, result: TaskResult) -> None:
        """End a task (or its stage) with the result of a service that holds no lease.

        Raises:
            NotFoundError: no such task.
        """
        await self._messages.complete(result)

    # -- workers -------------------------------------------------------------------------------
    async def execute(self, op: str, request: Any) -> Any:
        """One operation of a worker (see ``worker/operations.py``); rows it made are published."""
        reply = await invoke(self.store, op, request)
        if isinstance(reply, Finished) and reply.publish:
            await self._outbox.publish(reply.publish)
            reply = Finished(accepted=reply.accepted)
        if isinstance(reply, Execution):
            self._outbox.started(reply.task_id)
        elif isinstance(request, Completion):
            called = self._calls.take_sessions(request.key.task_id)
            if request.state is TaskState.SUCCEEDED and reply.accepted:
                for session_id in called:
                    self._sessions.delete_soon(session_id)
        return reply

    async def worker_lost(self, worker_id: str) -> None:
        """A worker's process has died: what it ran goes to another one now."""
        lost = await self.store.expire_worker(worker_id)
        if lost:
            log.warning("worker %s died with %d runs", worker_id, lost)
        self._wake()

    async def call_service(
        self,
        parent: ExecutionKey,
        call_key: str,
        service: str,
        arguments: dict[str, Any],
        *,
        share_session: bool = False,
    ) -> str:
        """Run ``service`` for the attempt ``parent`` and return the child task's id.

        The id derives from the parent and ``call_key``: a second attempt finds the child. Each
        call has a session of its own, as in 0.8.1; with ``share_session`` it is the parent's, and
        a call into the (session, service) of a caller then runs on a copy of the context.

        Raises:
            ConflictError: ``parent`` is not the current attempt.
            NotFoundError: no such service.
            ServiceCallError: too many calls within calls.
        """
        return await self._calls.call(
            parent, call_key, service, arguments, share_session=share_session
        )

    def _wake(self) -> None:
        """Something may be due for repair; orchestrators elsewhere find it by themselves."""
        if self._orchestration is not None:
            self._orchestration.wake()


async def _unanswered(label: str, ping: Callable[[], Awaitable[None]]) -> list[str]:
    try:
        async with asyncio.timeout(PING_SECONDS):
            await ping()
    except TimeoutError:
        return [f"{label}: it did not answer within {PING_SECONDS:g} s"]
    except LlamaDeployError as error:
        return [f"{label}: {error}"]
    return []
