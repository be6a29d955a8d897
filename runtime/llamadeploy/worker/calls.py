"""A service calls a service: from inside a step, by name, and awaits the result.

Each call has a key that is the same when the same code runs again (after a wait, a retry or the
loss of the worker), so that it finds the task it made before instead of making a second one.
"""

from __future__ import annotations

import hashlib
import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from llamadeploy.exceptions import ConfigurationError, ServiceCallError, UnsupportedFeatureError
from llamadeploy.state_stores.records import Execution
from llamadeploy.worker.contract import ServiceCaller

if TYPE_CHECKING:
    from llamadeploy.worker.engine import StepIdentity
    from llamadeploy.worker.network_workflow import NetworkWorkflow as NetworkWorkflow


class CallScope:
    """The calls of one run.

    A call without a key gets ``<service>:<hash of the arguments>:<n>``. ``n`` counts equal calls;
    which ones belong to which work item is remembered, so that a step which runs again gets its
    own ones again, in order, and a new step gets new ones.

    Args:
        calls: what :meth:`dump` gave when the run was parked.
    """

    def __init__(
        self, execution: Execution, caller: ServiceCaller | None, calls: dict[str, Any]
    ) -> None:
        self._execution = execution
        self._caller = caller
        self._owners: dict[str, list[str | None]] = {
            base: list(owners) for base, owners in calls.items()
        }
        self._latest: dict[str, tuple[StepIdentity | None, set[str]]] = {}

    def dump(self) -> dict[str, Any]:
        """Which work item made which equal call (``None``: it failed and is not to be repeated),
        as JSON."""
        return {base: list(owners) for base, owners in self._owners.items()}

    async def call(self, service: str, arguments: dict[str, Any], key: str | None = None) -> str:
        """See :func:`call_service`."""
        if self._caller is None:
            raise UnsupportedFeatureError(
                f"cannot call the service {service!r}: this worker has no control plane to send "
                "the call to"
            )
        if key is not None:
            return await self._caller.call(self._execution, service, arguments, key)
        base = f"{service}:{_fingerprint(service, arguments)}"
        number = self._number(base)
        try:
            return await self._caller.call(self._execution, service, arguments, f"{base}:{number}")
        except ServiceCallError:
            self._owners[base][number] = None  # a retry of the step makes a new call
            raise

    def _number(self, base: str) -> int:
        """Which of the equal calls this one is."""
        from llamadeploy.worker.engine import current_step

        step = current_step.get()
        item = "" if step is None else step.work_item
        seen, used = self._latest.get(item, (None, set()))
        if step is not seen:
            used = set()
        self._latest[item] = (step, used)
        owners = self._owners.setdefault(base, [])
        for number, owner in enumerate(owners):
            if owner == item and f"{base}:{number}" not in used and step is not None:
                break
        else:
            number = len(owners)
            owners.append(item)
        used.add(f"{base}:{number}")
        return number


current_scope: ContextVar[CallScope | None] = ContextVar("llamadeploy_calls", default=None)
"""Set by the runner for everything that a run does."""


async def call_service(service: str, /, *, key: str | None = None, **arguments: Any) -> str:
    """Run a task on another service of the deployment and wait for it; for use inside a step.

    Args:
        service: the service's name.
        key: identifies the call inside this task. The same key finds the same call again.
            Default: one per service, arguments and occurrence, which is right for code that does
            the same when it runs again.
        arguments: the task's input; must have a JSON form.

    Returns:
        The text of the result, as a client gets it.

    Raises:
        ConfigurationError: not inside a run, or the arguments have no JSON form.
        NotFoundError: no such service.
        ServiceCallError: the called task failed or was cancelled.
    """
    return await require_scope(service).call(service, arguments, key)


def require_scope(service: str) -> CallScope:
    """The scope of the current run. Raises ConfigurationError outside of one."""
    scope = current_scope.get()
    if scope is None:
        raise ConfigurationError(
            f"the service {service!r} can only be called inside a step of a workflow that a "
            "llamadeploy worker runs"
        )
    return scope


def _fingerprint(service: str, arguments: dict[str, Any]) -> str:
    try:
        text = json.dumps(arguments, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the arguments for the service {service!r} have no JSON form: {error}"
        ) from None
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def __getattr__(name: str) -> Any:
    # Lazily, because its base class brings the workflow library.
    if name == "NetworkWorkflow":
        from llamadeploy.worker.network_workflow import NetworkWorkflow

        return NetworkWorkflow
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
