"""The only part of a worker that knows the workflow library: it runs attempts of one workflow.

The library is imported when a runner is made, so that importing this module is cheap.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.signing import KeyRing
from llamadeploy.state_stores.records import Execution
from llamadeploy.worker.contract import ServiceCaller, Sink
from llamadeploy.worker.threads import install

if TYPE_CHECKING:
    from llamadeploy.worker.run import WorkflowRun


class WorkflowRunner:
    """Implements :class:`llamadeploy.worker.contract.Runner`.

    Args:
        workflow: a ``workflows.Workflow``; it is not changed, and may be run elsewhere meanwhile.
        keyring: signs and verifies contexts and snapshots.
        code_version: identifies the workflow's code (``loader.code_version``).
        timeout: seconds of non-idle time per task; ``None``: the workflow's own ``timeout``
            (45 s by default in the library), counted in the same way.
        caller: carries calls to other services; ``None``: such calls are an error.

    Raises:
        ConfigurationError: ``workflow`` is not a workflow.
    """

    def __init__(
        self,
        workflow: Any,
        keyring: KeyRing,
        *,
        code_version: str,
        timeout: float | None = None,
        caller: ServiceCaller | None = None,
    ) -> None:
        from workflows import Workflow

        from llamadeploy.worker.context_codec import ContextCodec
        from llamadeploy.worker.engine import ObservedRuntime, expects_outside_events, observed
        from llamadeploy.worker.run import Served

        if not isinstance(workflow, Workflow):
            raise ConfigurationError(
                f"cannot serve a {type(workflow).__name__}; it must be an instance of "
                "workflows.Workflow"
            )
        runtime = ObservedRuntime()
        seen = observed(workflow, runtime)
        self._served = Served(
            workflow=seen,
            runtime=runtime,
            codec=ContextCodec(seen, keyring),
            caller=caller,
            timeout=timeout if timeout is not None else workflow._timeout,
            expects_outside=expects_outside_events(seen),
            code_version=code_version,
        )

    @property
    def code_version(self) -> str:
        """Identifies the workflow's code."""
        return self._served.code_version

    @property
    def dropped_events(self) -> int:
        """How many events sent to runs were dropped because they could not be understood."""
        return self._served.codec.dropped

    def start(self, execution: Execution, sink: Sink) -> WorkflowRun:
        """Begin the attempt; returns at once. Call it on the workflow loop."""
        from llamadeploy.worker.run import WorkflowRun

        install(asyncio.get_running_loop())
        return WorkflowRun(self._served, execution, sink)
