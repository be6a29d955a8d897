"""The user interface's Deployment."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from llamadeploy.spec.manifest import Ui
from llamadeploy_operator import names
from llamadeploy_operator.desired.consumed import of_component
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.env import Env, merged, network_env, user_env
from llamadeploy_operator.desired.hashes import component_annotations
from llamadeploy_operator.desired.objects import child, of_deployment
from llamadeploy_operator.desired.overlay import merge_pod_template
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod import PodPlan, ca_volumes, pod_template, port, resources
from llamadeploy_operator.desired.prepared import WORK_MOUNT, preparing_container, work_volumes
from llamadeploy_operator.desired.resolution import (
    REVISIONS,
    NeededResolution,
    former_locks_annotation,
    lock_volume,
)
from llamadeploy_operator.desired.sources import PodSource, pod_source
from llamadeploy_operator.errors import SpecError

STARTUP_SECONDS = 1800
"""Installing a front end's packages is part of its start."""

_SCRIPT = """\
set -e
[ -f package.json ] || cd ui
if [ -f pnpm-lock.yaml ]; then manager="corepack pnpm"; install="install --no-frozen-lockfile"
else manager=npm; install="install --no-audit --no-fund --no-update-notifier"; fi
$manager $install
[ "$TS_DEPENDENCIES" = "" ] || npm install --no-audit --no-fund --no-save $TS_DEPENDENCIES
exec $manager run dev
"""
"""As on a laptop: packages are installed, and the script ``dev`` serves on ``$PORT``."""


def ui_deployment(context: DeploymentContext, needed: NeededResolution | None) -> Manifest | None:
    """``None`` without a user interface."""
    if context.spec.ui is None:
        return None
    return _deployment(context, _template(context, context.spec.ui, needed))


def kept_ui_deployment(context: DeploymentContext) -> Manifest | None:
    """The live Deployment as it is, while its new source is being resolved."""
    live = context.live.get(names.ui(context.owner.name))
    return _deployment(context, live.template) if live is not None else None


def _deployment(context: DeploymentContext, template: Manifest) -> Manifest:
    return child(
        "apps/v1",
        "Deployment",
        names.ui(context.owner.name),
        context.owner,
        of_deployment(context, names.UI),
        spec={
            "replicas": 1,
            "revisionHistoryLimit": REVISIONS,
            "progressDeadlineSeconds": STARTUP_SECONDS,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "selector": {"matchLabels": names.selector(context.owner.name, names.UI)},
            "template": template,
        },
    )


def _template(context: DeploymentContext, ui: Ui, needed: NeededResolution | None) -> Manifest:
    plan = Plan.of(context, context.defaults)
    name = names.ui(context.owner.name)
    if ui.python_dependencies:
        raise SpecError(
            "ui.pythonDependencies", "a user interface runs no Python", "give them to a service"
        )
    if ui.env_files:
        raise SpecError("ui.envFiles", "a user interface reads none in a cluster", "write ui.env")
    resolution = context.resolution if needed is not None else None
    source = pod_source(ui, resolution)
    own_image = ui.source.image is not None
    annotations = component_annotations(
        {}, of_component(ui), ui.pod_template, context.hashes, context.live.get(name)
    )
    annotations |= former_locks_annotation(needed, resolution, context.live.get(name))
    if needed is not None:
        annotations[names.SOURCE_ANNOTATION] = needed.source_hash
    if resolution is not None and resolution.commit is not None:
        annotations[names.COMMIT_ANNOTATION] = resolution.commit
    secret = names.source_secret(context.owner.name)
    pod = PodPlan(
        labels=of_deployment(context, names.UI),
        selector=names.selector(context.owner.name, names.UI),
        service_account=name,
        container=_container(context, plan, ui, source),
        revision=context.pin.revision,
        init=[] if own_image else [preparing_container("prepare", ui, source, plan, secret)],
        volumes=[
            *([] if own_image else work_volumes(source)),
            *lock_volume(needed, resolution),
            *ca_volumes(context.defaults, context.owner.name),
        ],
        annotations=annotations,
        spread=False,
        home_size="1Gi",
        tmp_size="1Gi",
    )
    return merge_pod_template(
        pod_template(pod, context.defaults), ui.pod_template, "ui.podTemplate"
    )


def _container(context: DeploymentContext, plan: Plan, ui: Ui, source: PodSource) -> Manifest:
    image = ui.source.image
    container: dict[str, Any] = {
        "name": names.UI,
        "image": _image(context, ui),
        "ports": [port("http", plan.ui_port)],
        "env": merged(network_env(plan), _env(context, plan, ui), user_env(ui.env or (), "ui.env")),
        "volumeMounts": [] if image is not None else [WORK_MOUNT],
        "resources": resources("100m", "256Mi", "2Gi"),
        **_probes(),
    }
    if image is None:
        folder = PurePosixPath(source.source_dir, ui.path or "")
        container |= {"command": ["sh", "-c", _SCRIPT], "workingDir": str(folder)}
    return container


def _image(context: DeploymentContext, ui: Ui) -> str:
    image = ui.source.image
    if image is None:
        return context.pin.ui_image
    if image.image is None:
        raise SpecError("ui.source.image", "names no image", "write source.image.image")
    return image.image


def _env(context: DeploymentContext, plan: Plan, ui: Ui) -> Env:
    added = " ".join(f"{name}@{version}" for name, version in (ui.ts_dependencies or {}).items())
    values = {
        "PORT": str(plan.ui_port),
        "HOST": "0.0.0.0",  # noqa: S104 - of the pod alone
        "LLAMA_DEPLOY_NEXTJS_BASE_PATH": f"/ui/{context.owner.name}",
        "LLAMA_DEPLOY_NEXTJS_DEPLOYMENT_NAME": context.owner.name,
    }
    if added:
        values["TS_DEPENDENCIES"] = added
    return [{"name": name, "value": value} for name, value in values.items()]


def _probes() -> Manifest:
    probe = {"tcpSocket": {"port": "http"}, "timeoutSeconds": 3}
    return {
        "startupProbe": {**probe, "periodSeconds": 5, "failureThreshold": STARTUP_SECONDS // 5},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 2},
    }
