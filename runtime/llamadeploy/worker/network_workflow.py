"""``NetworkWorkflow``: another service of the deployment, in the shape of a workflow."""

from __future__ import annotations

import warnings
from typing import Any

from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

from llamadeploy.worker.calls import require_scope


class NetworkWorkflow(Workflow):
    """Runs on the service ``remote_service_name``; for use where a workflow is expected.

    The fields of its start event are the remote task's input, the remote result (a string) is its
    result. It must be run inside a step of a workflow that a worker serves, or be served itself.

    Args:
        remote_service_name: the service to run on.
        control_plane_config: ignored, with a warning, as in LlamaDeploy 0.8.1.
        kwargs: for ``Workflow``, such as ``timeout`` in seconds.
    """

    def __init__(
        self, remote_service_name: str, control_plane_config: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if control_plane_config is not None:
            warnings.warn(
                "control_plane_config is deprecated and ignored: a call goes through the worker's "
                "own control plane",
                DeprecationWarning,
                stacklevel=2,
            )
        self.remote_service_name = remote_service_name

    @step
    async def run_remote_workflow(self, ev: StartEvent) -> StopEvent:
        """Call the service with the start event's fields."""
        fields = {name: getattr(ev, name) for name in type(ev).model_fields}
        fields.update(ev.items())
        service = self.remote_service_name
        return StopEvent(result=await require_scope(service).call(service, fields))
