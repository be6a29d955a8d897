"""The containers that run ``llamadeploy prepare`` and ``llamadeploy resolve``."""

from __future__ import annotations

from typing import Any

from llamadeploy.spec.manifest import Component
from llamadeploy_operator.desired.context import Manifest
from llamadeploy_operator.desired.env import (
    Env,
    from_secret,
    installer_env,
    merged,
    network_env,
    setting,
)
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod import resources
from llamadeploy_operator.desired.sources import (
    FOLDER,
    PREPARED,
    SOURCE_SIZE,
    PodSource,
    runtime_image,
)

WORK_MOUNT = {"name": "source", "mountPath": FOLDER}
SOURCE_KEY = "source"
"""Key of the Secret that holds a source with a login in its URL."""


def source_setting(source: PodSource, secret: str) -> dict[str, Any]:
    """``LLAMADEPLOY_SOURCE``; out of the Secret ``secret`` where it is confidential."""
    if source.confidential:
        return from_secret("LLAMADEPLOY_SOURCE", secret, SOURCE_KEY)
    return setting("source", source.document)


def preparing_container(
    command: str, item: Component, source: PodSource, plan: Plan, secret: str
) -> Manifest:
    """An init container, or a Job's only one.

    Args:
        command: ``prepare`` or ``resolve``, also its name.
        secret: see :func:`source_setting`.
    """
    env: Env = [
        setting("log_format", plan.defaults.log_format),
        setting("source_dir", source.source_dir),
        source_setting(source, secret),
    ]
    if item.python_dependencies:
        env.append(setting("python_dependencies", item.python_dependencies))
    return {
        "name": command,
        "image": runtime_image(item, plan.pin.image),
        "command": ["llamadeploy", command],
        "env": merged(network_env(plan), env, installer_env(plan)),
        "volumeMounts": [WORK_MOUNT, *source.mounts],
        "resources": resources("100m", "256Mi", "2Gi"),
    }


def work_volumes(source: PodSource) -> list[Any]:
    """The volume for code and packages, and what is fetched with."""
    return [{"name": "source", "emptyDir": {"sizeLimit": SOURCE_SIZE}}, *source.volumes]


def environment_python(source: PodSource) -> str:
    """The interpreter that sees the installed dependencies."""
    return f"{source.source_dir}/{PREPARED}/environment/bin/python"
