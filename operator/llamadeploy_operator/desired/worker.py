"""The workers of a WorkflowService: a Deployment whose pods first put the code in place."""

from __future__ import annotations

from typing import Any

from llamadeploy_operator import names
from llamadeploy_operator.desired.consumed import of_component
from llamadeploy_operator.desired.context import Manifest, ServiceContext
from llamadeploy_operator.desired.env import (
    Env,
    merged,
    network_env,
    process_env,
    setting,
    store_env,
    user_env,
)
from llamadeploy_operator.desired.hashes import component_annotations, connection_hashes
from llamadeploy_operator.desired.objects import child, of_service
from llamadeploy_operator.desired.overlay import merge_pod_template
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod import (
    METRICS,
    PodPlan,
    ca_volumes,
    http_probes,
    pod_template,
    resources,
)
from llamadeploy_operator.desired.prepared import (
    WORK_MOUNT,
    environment_python,
    preparing_container,
    work_volumes,
)
from llamadeploy_operator.desired.resolution import (
    REVISIONS,
    NeededResolution,
    former_locks_annotation,
    lock_volume,
)
from llamadeploy_operator.desired.scaling import scaling
from llamadeploy_operator.desired.sources import PodSource, pod_source, runtime_image

STARTUP_SECONDS = 300
"""Imports of large libraries from a cold disk, and a control plane that is not up yet."""

PROGRESS_SECONDS = 1800
"""As long as installing a service's dependencies may take."""

DRAIN_SECONDS = 60
"""What running tasks get at a drain where the service has no time-out."""

MAX_DRAIN_SECONDS = 600
"""Longer tasks are handed back: a node's drain should not wait for hours."""

_SPARE_SECONDS = 15
"""From the end of the drain to SIGKILL: handing back, closing connections."""

_SETTINGS = {
    "max_concurrent_tasks": "max_concurrent_tasks",
    "session_policy": "session_policy",
    "task_timeout_seconds": "timeout_seconds",
    "wait_timeout_seconds": "wait_timeout_seconds",
    "queue_timeout_seconds": "queue_timeout_seconds",
    "max_retries": "max_retries",
    "retry_on_error": "retry_on_error",
    "broadcast": "broadcast",
}
"""Field of PodSettings -> field of the spec; what the spec leaves out has the runtime's default."""


def worker_deployment(
    context: ServiceContext, plan: Plan, needed: NeededResolution | None
) -> Manifest:
    """The Deployment, with a source that needs nothing more."""
    return _deployment(context, _template(context, plan, needed))


def kept_worker_deployment(context: ServiceContext) -> Manifest | None:
    """The live Deployment with its own template: only its replicas may change. ``None`` where there
    is none."""
    live = context.live.get(names.worker(context.owner.name))
    return _deployment(context, live.template) if live is not None else None


def drain_seconds(context: ServiceContext) -> int:
    """What running tasks get when their worker is to go."""
    timeout = context.spec.timeout_seconds
    return DRAIN_SECONDS if timeout is None else int(min(max(timeout, 20), MAX_DRAIN_SECONDS))


def _deployment(context: ServiceContext, template: Manifest) -> Manifest:
    selector = _selector(context)
    return child(
        "apps/v1",
        "Deployment",
        names.worker(context.owner.name),
        context.owner,
        of_service(context),
        spec={
            "replicas": scaling(context).replicas,
            "revisionHistoryLimit": REVISIONS,
            "progressDeadlineSeconds": PROGRESS_SECONDS,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"},
            },
            "selector": {"matchLabels": selector},
            "template": template,
        },
    )


def _selector(context: ServiceContext) -> dict[str, str]:
    return names.selector(
        context.spec.deployment_ref.name, names.WORKER, workflow_service=context.owner.name
    )


def _template(context: ServiceContext, plan: Plan, needed: NeededResolution | None) -> Manifest:
    spec, resolution = context.spec, context.resolution if needed is not None else None
    source = pod_source(spec, resolution)
    pod = PodPlan(
        labels=of_service(context),
        selector=_selector(context),
        service_account=names.workers(plan.owner.name),
        container=_container(context, plan, source),
        revision=plan.pin.revision,
        init=_init(context, plan, source),
        volumes=[
            *(work_volumes(source) if source.prepared else ()),
            *lock_volume(needed, resolution),
            *ca_volumes(context.defaults, plan.owner.name),
        ],
        annotations=_annotations(context, plan, needed),
        grace=drain_seconds(context) + _SPARE_SECONDS,
        home_size="256Mi",
        tmp_size="1Gi",
    )
    return merge_pod_template(pod_template(pod, context.defaults), spec.pod_template, "podTemplate")


def _init(context: ServiceContext, plan: Plan, source: PodSource) -> list[Any]:
    if not source.prepared:
        return []
    secret = names.source_secret(context.owner.name)
    return [preparing_container("prepare", context.spec, source, plan, secret)]


def _annotations(
    context: ServiceContext, plan: Plan, needed: NeededResolution | None
) -> dict[str, str]:
    live = context.live.get(names.worker(context.owner.name))
    annotations = component_annotations(
        connection_hashes(plan, context.hashes),
        of_component(context.spec),
        context.spec.pod_template,
        context.hashes,
        live,
    )
    annotations |= former_locks_annotation(needed, context.resolution, live)
    if needed is not None:
        annotations[names.SOURCE_ANNOTATION] = needed.source_hash
    if context.resolution is not None and context.resolution.commit is not None:
        annotations[names.COMMIT_ANNOTATION] = context.resolution.commit
    if context.owner.reload:
        annotations[names.RELOAD_ANNOTATION] = context.owner.reload
    return annotations


def _container(context: ServiceContext, plan: Plan, source: PodSource) -> Manifest:
    spec = context.spec
    python = [environment_python(source), "-P", "-m", "llamadeploy"]
    return {
        "name": names.WORKER,
        "image": runtime_image(spec, plan.pin.image),
        "command": [*(python if spec.python_dependencies else ["llamadeploy"]), "worker"],
        "ports": [METRICS],
        "env": merged(
            network_env(plan),
            process_env(plan),
            store_env(plan) if plan.store_shared else [],
            _own_env(context, plan, source),
            user_env(spec.env or (), "env"),
        ),
        "volumeMounts": [WORK_MOUNT] if source.prepared else [],
        "resources": resources("100m", "256Mi", "1Gi"),
        **http_probes(startup_seconds=STARTUP_SECONDS),
    }


def _own_env(context: ServiceContext, plan: Plan, source: PodSource) -> Env:
    replica = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}
    env: Env = [
        setting("service", context.service),
        {"name": "LLAMADEPLOY_REPLICA", "valueFrom": replica},
        setting("control_plane_url", plan.control_plane_url),
        setting("workflow_path", context.spec.path),
        setting("source_dir", source.source_dir),
        setting("drain_seconds", drain_seconds(context)),
    ]
    for field, name in _SETTINGS.items():
        value = getattr(context.spec, name)
        if value is not None:
            env.append(setting(field, value))
    return env
