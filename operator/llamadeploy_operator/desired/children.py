"""All children of a resource."""

from __future__ import annotations

from collections.abc import Iterator

from llamadeploy.spec.manifest import Component, DeploymentManifestSpec
from llamadeploy_operator import names
from llamadeploy_operator.desired.addresses import addresses_secret
from llamadeploy_operator.desired.config_map import config_map
from llamadeploy_operator.desired.context import (
    ChildKey,
    DeploymentContext,
    LiveWorkload,
    Manifest,
    Owner,
    ServiceContext,
)
from llamadeploy_operator.desired.control_plane import control_plane_deployment
from llamadeploy_operator.desired.disruption_budget import disruption_budget
from llamadeploy_operator.desired.keda import keda_children
from llamadeploy_operator.desired.managed import queue_service, store_service
from llamadeploy_operator.desired.network_policy import network_policies
from llamadeploy_operator.desired.objects import of_deployment, of_service
from llamadeploy_operator.desired.orchestrator import orchestrator_deployment
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod_monitor import pod_monitor
from llamadeploy_operator.desired.rabbitmq import rabbitmq
from llamadeploy_operator.desired.redis import redis_queue, redis_store
from llamadeploy_operator.desired.resolution import (
    NeededResolution,
    live_locks,
    lock_config_map,
    needed_resolution,
)
from llamadeploy_operator.desired.resolver_job import resolver_job
from llamadeploy_operator.desired.scaling import scaling
from llamadeploy_operator.desired.service import control_plane_service, ui_service
from llamadeploy_operator.desired.service_account import service_account, worker_service_account
from llamadeploy_operator.desired.source_secret import source_secret
from llamadeploy_operator.desired.sources import pod_source, runtime_image
from llamadeploy_operator.desired.ui import kept_ui_deployment, ui_deployment
from llamadeploy_operator.desired.worker import kept_worker_deployment, worker_deployment
from llamadeploy_operator.desired.workflow_service import workflow_service
from llamadeploy_operator.errors import SpecError


def deployment_children(context: DeploymentContext) -> list[Manifest]:
    """Everything that a Deployment's own reconciling applies, in the order to apply it.

    Without the internal Secret, which is created once (``internal_secret``), and never with two of
    the same kind and name.

    Raises:
        SpecError: the spec cannot be carried out; nothing is to be applied or deleted then.
    """
    check_services(context.spec)
    return [manifest for manifest in _of_deployment(context) if manifest is not None]


def service_children(context: ServiceContext) -> list[Manifest]:
    """Everything that a WorkflowService's reconciling applies, in the order to apply it.

    Raises:
        SpecError: as :func:`deployment_children`.
    """
    return [manifest for manifest in _of_service(context) if manifest is not None]


def needed(context: DeploymentContext | ServiceContext) -> NeededResolution | None:
    """The source that has to be resolved before the pods of this resource can be written."""
    if isinstance(context, DeploymentContext):
        ui, name = context.spec.ui, names.ui(context.owner.name)
        return _needed(ui, context.owner, context.pin.image, context, name) if ui else None
    if context.parent is None:
        return None
    name, image = names.worker(context.owner.name), context.parent.pin.image
    return _needed(context.spec, context.owner, image, context, name)


def kept(context: DeploymentContext | ServiceContext) -> set[ChildKey]:
    """Children that are not applied and not deleted either: what live pods mount, until their
    template names another."""
    found = set()
    if isinstance(context, DeploymentContext):
        found.add(ChildKey("Secret", names.internal_secret(context.owner.name)))
    for live in context.live.values():
        found |= {ChildKey("ConfigMap", name) for name in live_locks(live)}
    return found


def check_services(spec: DeploymentManifestSpec) -> None:
    """What no schema says of the services together.

    Raises:
        SpecError: two have a name, or the default service is none of them.
    """
    found: set[str] = set()
    for index, service in enumerate(spec.services or ()):
        if service.name in found:
            at = f"services[{index}].name"
            raise SpecError(at, f"'{service.name}' appears twice", "give it another name")
        found.add(service.name)


def _needed(
    item: Component,
    owner: Owner,
    image: str,
    context: DeploymentContext | ServiceContext,
    workload: str,
) -> NeededResolution | None:
    live: LiveWorkload | None = context.live.get(workload)
    image = runtime_image(item, image)
    return needed_resolution(item, owner, image, context.hashes, live)


def _of_deployment(context: DeploymentContext) -> Iterator[Manifest | None]:
    plan, owner = Plan.of(context, context.defaults), context.owner.name
    yield from _accounts(context, plan)
    yield config_map(context)
    yield addresses_secret(plan)
    yield from network_policies(context)
    yield queue_service(context)
    yield store_service(context)
    yield redis_queue(context)
    yield redis_store(context)
    yield rabbitmq(context)
    yield control_plane_service(context)
    yield control_plane_deployment(context)
    yield orchestrator_deployment(context)
    for name, component, replicas in (
        (names.control_plane(owner), names.CONTROL_PLANE, plan.named_control_planes),
        (names.orchestrator(owner), names.ORCHESTRATOR, _named_orchestrators(plan)),
    ):
        if replicas is None:
            replicas = live.replicas if (live := context.live.get(name)) else 1
        selector = names.selector(owner, component)
        labels = of_deployment(context, component)
        yield disruption_budget(context.owner, name, labels, selector, replicas)
    for service in context.spec.services or ():
        yield workflow_service(context, service)
    yield from _of_ui(context, plan)
    yield pod_monitor(context)


def _named_orchestrators(plan: Plan) -> int | None:
    return plan.named_orchestrators if plan.orchestrators else 0


def _accounts(context: DeploymentContext, plan: Plan) -> Iterator[Manifest]:
    owner = context.owner.name
    yield worker_service_account(context)
    yield service_account(context, names.control_plane(owner), names.CONTROL_PLANE)
    if plan.orchestrators:
        yield service_account(context, names.orchestrator(owner), names.ORCHESTRATOR)
    if context.spec.ui is not None:
        yield service_account(context, names.ui(owner), names.UI)
    if plan.managed_queue:
        yield service_account(context, names.queue(owner), names.QUEUE)
    if plan.managed_store:
        yield service_account(context, names.state_store(owner), names.STATE_STORE)


def _of_ui(context: DeploymentContext, plan: Plan) -> Iterator[Manifest | None]:
    ui = context.spec.ui
    if ui is None:
        return
    yield ui_service(context)
    labels = of_deployment(context, names.UI)
    wanted, resolution = needed(context), context.resolution
    secret = names.source_secret(context.owner.name)
    if wanted is None:
        yield source_secret(context.owner, labels, pod_source(ui, None))
        yield ui_deployment(context, None)
    elif resolution is None or not wanted.met_by(resolution):
        yield source_secret(context.owner, labels, pod_source(ui, None))
        job_labels = of_deployment(context, names.RESOLVER)
        yield resolver_job(context.owner, job_labels, ui, wanted, plan, secret)
        yield kept_ui_deployment(context)
    else:
        yield source_secret(context.owner, labels, pod_source(ui, resolution))
        lock_labels = of_deployment(context, names.RESOLVER)
        yield lock_config_map(context.owner, lock_labels, wanted, resolution)
        yield ui_deployment(context, wanted)


def _of_service(context: ServiceContext) -> Iterator[Manifest | None]:
    parent = context.parent
    if parent is None or context.conflict is not None:
        yield kept_worker_deployment(context)
        return
    plan = Plan.of(parent, context.defaults)
    labels, job_labels = of_service(context), of_service(context, names.RESOLVER)
    wanted, resolution = needed(context), context.resolution
    if wanted is None:
        yield source_secret(context.owner, labels, pod_source(context.spec, None))
        yield worker_deployment(context, plan, None)
    elif resolution is None or not wanted.met_by(resolution):
        secret = names.source_secret(context.owner.name)
        yield source_secret(context.owner, labels, pod_source(context.spec, None))
        yield resolver_job(context.owner, job_labels, context.spec, wanted, plan, secret)
        yield kept_worker_deployment(context)
    else:
        yield source_secret(context.owner, labels, pod_source(context.spec, resolution))
        yield lock_config_map(context.owner, job_labels, wanted, resolution)
        yield worker_deployment(context, plan, wanted)
    yield from keda_children(context, plan)
    deployment = context.spec.deployment_ref.name
    selector = names.selector(deployment, names.WORKER, workflow_service=context.owner.name)
    name = names.worker(context.owner.name)
    yield disruption_budget(context.owner, name, labels, selector, scaling(context).replicas)
