"""All that the builders know. Whoever calls them gathers it first; they do no I/O, have no clock
and draw no random numbers, so the same context always gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from llamadeploy.spec.manifest import DeploymentManifestSpec, WorkflowServiceManifestSpec

Manifest = dict[str, Any]
"""A Kubernetes object as JSON has it."""


class Consumed(NamedTuple):
    """A Secret or ConfigMap of the user, in the owner's namespace, that pods read."""

    kind: Literal["Secret", "ConfigMap"]
    name: str


class ChildKey(NamedTuple):
    """A child within its owner's namespace."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Owner:
    """A custom resource whose children are built.

    Attributes:
        reload: the value of ``names.RELOAD_ANNOTATION`` on it; empty where there is none.
    """

    api_version: str
    kind: str
    name: str
    namespace: str
    uid: str
    reload: str = ""


@dataclass(frozen=True, slots=True)
class Pin:
    """The runtime that a Deployment stays with while the operator is upgraded.

    Attributes:
        image: the whole reference, as pods have it.
        revision: of the pod templates; see ``pin.TEMPLATE_REVISION``.
        version: ``spec.version`` when it was recorded.
        redis_image, rabbitmq_image: of managed servers; they never move with the operator.
        ui_image: Node.js for a user interface.
    """

    image: str
    revision: int
    version: str | None = None
    redis_image: str = ""
    rabbitmq_image: str = ""
    ui_image: str = ""


@dataclass(frozen=True, slots=True)
class OperatorDefaults:
    """Settings of the operator that reach into pods.

    Attributes:
        runtime_image: with a tag: the image of Deployments without ``spec.version``; with one, its
            tag is replaced.
        ui_image: Node.js, for user interfaces that are no image of their own.
        image_prefix: put in front of every image of ours and of the brokers, for mirrors, such as
            ``registry.local/mirror/``.
        image_pull_secrets: names of Secrets in each Deployment's namespace.
        index_url: of a Python package index; may hold a login.
        ca_bundle: PEM text of every authority that pods trust; replaces the image's own.
        runtime_upgrade: ``Auto``: a new operator moves Deployments without ``spec.version``.
        operator_namespace, operator_labels: which pods NetworkPolicies admit as the operator's.
        admitted_namespaces: whose pods may reach control planes and UIs too.
    """

    runtime_image: str = "ghcr.io/llamadeploy/llamadeploy:latest"
    redis_image: str = "redis:7.4-alpine"
    rabbitmq_image: str = "rabbitmq:4.1-alpine"
    ui_image: str = "node:22-bookworm-slim"
    image_prefix: str = ""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: tuple[str, ...] = ()
    index_url: str | None = field(default=None, repr=False)
    ca_bundle: str | None = field(default=None, repr=False)
    http_proxy: str | None = field(default=None, repr=False)
    https_proxy: str | None = field(default=None, repr=False)
    no_proxy: str | None = None
    runtime_upgrade: Literal["Pinned", "Auto"] = "Pinned"
    log_format: Literal["json", "text"] = "json"
    log_level: str = "INFO"
    cluster_domain: str = "cluster.local"
    operator_namespace: str = "llamadeploy-system"
    operator_labels: Mapping[str, str] = field(
        default_factory=lambda: {"app.kubernetes.io/name": "llamadeploy-operator"}
    )
    admitted_namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the cluster can do beyond the core."""

    pod_monitor: bool = False
    keda: bool = False


@dataclass(frozen=True, slots=True)
class LiveWorkload:
    """A live Deployment or StatefulSet of the owner's.

    Attributes:
        template: its ``spec.template``, defaults included. Used where the new one cannot be known
            yet (a source is being resolved), and for recorded hashes.
        replicas: its ``spec.replicas``.
    """

    template: Manifest = field(repr=False)
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a resolver Job found; read from its ConfigMap, or the Job's log once it has succeeded.

    Attributes:
        source_hash: ``resolution.source_hash`` of the source it is for; another one means that the
            source has changed since, and this resolution is not used.
        commit: full id of a git commit; ``None`` for other sources.
        requirements: a locked requirements file with hashes; empty without dependencies.
    """

    source_hash: str
    commit: str | None = None
    requirements: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DeploymentContext:
    """For the children of a Deployment.

    Attributes:
        pin: from ``pin.choose_pin``.
        hashes: of each of ``consumed(spec)``; ``None``: unreadable or absent now, what was
            recorded counts on.
        live: by name, the live workloads of this owner.
        resolution: of the user interface's source.
        state_store_scheme: of the URI in the Secret that ``stateStore.uriFrom`` names, such as
            ``postgresql``; ``None`` while it cannot be read.
    """

    owner: Owner
    spec: DeploymentManifestSpec
    defaults: OperatorDefaults
    pin: Pin
    hashes: Mapping[Consumed, str | None] = field(default_factory=dict)
    live: Mapping[str, LiveWorkload] = field(default_factory=dict)
    resolution: Resolution | None = None
    state_store_scheme: str | None = None
    capabilities: Capabilities = Capabilities()


@dataclass(frozen=True, slots=True)
class Parent:
    """The Deployment that a WorkflowService belongs to, as :class:`DeploymentContext` has it."""

    owner: Owner
    spec: DeploymentManifestSpec
    pin: Pin
    state_store_scheme: str | None = None


@dataclass(frozen=True, slots=True)
class Scaled:
    """The autoscaler's last decision that changed something.

    Attributes:
        replicas: how many workers it wants.
        reason: of :class:`llamadeploy_operator.autoscaling.Decision`.
        message: the same for people.
        unavailable: why the work is not known, so that the number stays; ``None``: it is.
        capped: the work asks for more than ``maxReplicas``.
    """

    replicas: int
    reason: str
    message: str
    unavailable: str | None = None
    capped: bool = False


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """For the children of a WorkflowService.

    Attributes:
        replicas: its ``spec.replicas``, which the API server defaults to 1.
        parent: ``None``: there is none of that name, so no worker runs.
        conflict: name of the older WorkflowService of the same service; no worker of this one runs.
        hashes: of each of ``consumed(spec)`` and ``consumed(parent.spec)``.
        partitions: of the service's Kafka topic; ``None`` while unknown.
        scaled: ``None``: nothing was decided yet.
    """

    owner: Owner
    spec: WorkflowServiceManifestSpec
    replicas: int
    parent: Parent | None
    defaults: OperatorDefaults
    hashes: Mapping[Consumed, str | None] = field(default_factory=dict)
    live: Mapping[str, LiveWorkload] = field(default_factory=dict)
    resolution: Resolution | None = None
    conflict: str | None = None
    partitions: int | None = None
    capabilities: Capabilities = Capabilities()
    scaled: Scaled | None = None

    @property
    def service(self) -> str:
        """The service's name on the wire."""
        return self.spec.service_name or self.owner.name
