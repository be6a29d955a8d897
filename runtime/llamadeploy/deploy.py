"""Manual orchestration from Python: the core in one process, workflows in others (or the same)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamadeploy.control_plane.deploy import deploy_core
    from llamadeploy.worker.deploy import deploy_workflow

__all__ = ["deploy_core", "deploy_workflow"]


def __getattr__(name: str) -> Any:
    # Each when first used: whoever serves a workflow does not load the control plane.
    if name == "deploy_core":
        from llamadeploy.control_plane.deploy import deploy_core

        return deploy_core
    if name == "deploy_workflow":
        from llamadeploy.worker.deploy import deploy_workflow

        return deploy_workflow
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
