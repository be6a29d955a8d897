"""Kubernetes manifests of a file -> DeploymentSpecs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llamadeploy.spec.checks import (
    check_service_name,
    check_state_store_uri,
    check_workflow_path,
    require_service,
)
from llamadeploy.spec.cluster_only import ClusterOnly
from llamadeploy.spec.components import service_spec, ui_spec
from llamadeploy.spec.deployment import ControlPlaneSpec, DeploymentSpec, QueueSpec, ServiceSpec
from llamadeploy.spec.documents import Document
from llamadeploy.spec.manifest import (
    API_VERSION,
    GROUP,
    AWSQueue,
    Broker,
    ControlPlane,
    DeploymentManifest,
    MessageQueue,
    ServiceFields,
    WorkflowServiceManifest,
)
from llamadeploy.spec.manifest_common import SecretSource
from llamadeploy.spec.objects import Objects, Resolver, is_object
from llamadeploy.spec.problems import Path, SpecProblem, nearest, suggest
from llamadeploy.spec.validation import validate

_CLUSTER_FIELDS: tuple[Path, ...] = (
    ("controlPlane", "replicas"),
    ("controlPlane", "podTemplate"),
    ("orchestrator",),
    ("deletionPolicy",),
    ("suspend",),
    ("version",),
    ("signingKeyFrom",),
)
"""Fields below a Deployment's ``spec`` that a laptop ignores; those of services come on top."""


@dataclass
class _Found:
    """A Deployment on its way."""

    manifest: DeploymentManifest
    resolver: Resolver
    services: dict[str, ServiceSpec] = field(default_factory=dict)
    only: ClusterOnly = field(default_factory=ClusterOnly)

    @property
    def document(self) -> Document:
        return self.resolver.document


def from_manifests(
    documents: list[Document], problems: list[SpecProblem]
) -> list[tuple[Document, DeploymentSpec]]:
    """The Deployments among ``documents``, with what belongs to them.

    Where something is wrong ``problems`` is extended, and the result is not to be used.
    """
    objects = Objects(problems)
    deployments: list[Document] = []
    services: list[Document] = []
    others: list[str] = []
    for document in documents:
        kind = _kind(document, problems)
        if kind == "object":
            objects.add(document)
        elif kind == "Deployment":
            deployments.append(document)
        elif kind == "WorkflowService":
            services.append(document)
        elif kind is not None:
            others.append(kind)
    found = [item for document in deployments if (item := _read(document, objects, problems))]
    if len(found) < len(deployments):
        services = []  # theirs may be the one that could not be read
    for document in services:
        _attach(document, found, objects, problems)
    for item in found:
        for other in others:
            item.only.note(other)
    return [(item.document, _spec(item)) for item in found]


def _kind(document: Document, problems: list[SpecProblem]) -> str | None:
    """What a document is: object, Deployment, WorkflowService, or the name of something else."""
    data = document.data
    version, kind = data.get("apiVersion"), data.get("kind")
    for key, value in (("apiVersion", version), ("kind", kind)):
        if not isinstance(value, str):
            wrong = "is missing" if value is None else "must be text"
            right = f"write apiVersion: {API_VERSION} and kind: Deployment"
            problems.append(document.problem((key,), wrong, right))
            return None
    if is_object(data):
        return "object"
    if str(version).split("/")[0] != GROUP:
        metadata = data.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if kind == "List":
            right = "write its items as documents of their own, separated by '---'"
            problems.append(document.problem(("kind",), "a List is not read", right))
            return None
        if near := nearest(str(version).split("/")[0], [GROUP]):
            wrong, right = f"unknown group in {version!r}", f"did you mean '{near}/v1alpha1'?"
            problems.append(document.problem(("apiVersion",), wrong, right))
            return None
        return f"{kind}/{name}" if name else str(kind)
    if version != API_VERSION:
        right = f"write {API_VERSION}"
        problems.append(document.problem(("apiVersion",), f"unknown version {version!r}", right))
        return None
    if kind not in ("Deployment", "WorkflowService"):
        right = suggest(str(kind), ("Deployment", "WorkflowService"), noun="kinds")
        problems.append(document.problem(("kind",), f"unknown kind {kind!r}", right))
        return None
    return str(kind)


def _read(document: Document, objects: Objects, problems: list[SpecProblem]) -> _Found | None:
    manifest = validate(DeploymentManifest, document, problems, strict=True)
    if manifest is None:
        return None
    namespace = manifest.metadata.namespace
    found = _Found(manifest, Resolver(document, namespace, objects, problems))
    for index, item in enumerate(manifest.spec.services or []):
        _add_service(found, item.name, item, found.resolver, ("spec", "services", index), "name")
    return found


def _attach(
    document: Document, found: list[_Found], objects: Objects, problems: list[SpecProblem]
) -> None:
    """Add a WorkflowService of its own to the Deployment that it names."""
    manifest = validate(WorkflowServiceManifest, document, problems, strict=True)
    if manifest is None:
        return
    namespace, target = manifest.metadata.namespace, manifest.spec.deployment_ref.name
    resolver = Resolver(document, namespace, objects, problems)
    for item in found:
        other = item.manifest.metadata
        if other.name == target and (
            None in (namespace, other.namespace) or namespace == other.namespace
        ):
            name = manifest.spec.service_name or manifest.metadata.name
            _add_service(item, name, manifest.spec, resolver, ("spec",), "serviceName")
            return
    known = [item.manifest.metadata.name for item in found]
    path = ("spec", "deploymentRef", "name")
    wrong = f"there is no Deployment '{target}' in this file"
    resolver.problem(path, wrong, suggest(target, known, noun="Deployments"))


def _add_service(
    found: _Found, name: str, item: ServiceFields, resolver: Resolver, path: Path, name_key: str
) -> None:
    check_service_name(resolver.document, (*path, name_key), name, resolver.problems)
    check_workflow_path(resolver.document, (*path, "path"), item.path, resolver.problems)
    if name in found.services:
        wrong = f"a service named '{name}' is in this Deployment already"
        resolver.problem((*path, name_key), wrong, "give it another name")
        return
    found.services[name] = service_spec(name, item, resolver, path, found.only)


def _spec(found: _Found) -> DeploymentSpec:
    spec, resolver, only = found.manifest.spec, found.resolver, found.only
    for path in _CLUSTER_FIELDS:
        only.take(found.document, ("spec", *path), path)
    at = ("spec", "defaultService")
    # The API server sees the Deployment alone: where it has services, the default is one of them.
    names = [item.name for item in spec.services or []] or found.services
    require_service(found.document, at, spec.default_service, names, resolver.problems)
    return DeploymentSpec(
        name=found.manifest.metadata.name,
        namespace=found.manifest.metadata.namespace,
        control_plane=_control_plane(spec.control_plane or ControlPlane(), resolver, only),
        message_queue=_queue(spec.message_queue, resolver, only),
        default_service=spec.default_service,
        services=found.services,
        ui=ui_spec(spec.ui, resolver, ("spec", "ui"), only) if spec.ui else None,
        ignored=only.ignored,
        cluster_only=only.values,
    )


def _control_plane(
    section: ControlPlane, resolver: Resolver, only: ClusterOnly
) -> ControlPlaneSpec:
    at = ("spec", "controlPlane", "stateStore")
    store, uri = section.state_store, None
    if store is not None and store.uri is not None:
        uri = store.uri.get_secret_value()
        check_state_store_uri(resolver.document, (*at, "uri"), uri, resolver.problems)
    elif store is not None and store.uri_from is not None:
        uri = _secret(store.uri_from, resolver, (*at, "uriFrom"))
        check_state_store_uri(resolver.document, (*at, "uriFrom"), uri, resolver.problems)
    only.take(resolver.document, (*at, "managed"), ("controlPlane", "stateStore"), whole=at)
    return ControlPlaneSpec(
        topic_namespace=section.topic_namespace,
        cors_origins=section.cors_origins,
        state_store_uri=uri,
    )


def _queue(section: MessageQueue | None, resolver: Resolver, only: ClusterOnly) -> QueueSpec:
    """The queue; one that the operator would run is ``simple`` on a laptop."""
    if section is None:
        return QueueSpec()
    at = ("spec", "messageQueue")
    if section.managed is not None:
        only.take(resolver.document, (*at, "managed"), ("messageQueue",), whole=at)
        return QueueSpec()
    part = getattr(section, section.type)
    here = (*at, section.type)
    options: dict[str, Any] = {}
    if isinstance(part, Broker):
        if part.url is not None:
            options["url"] = part.url.get_secret_value()
        elif part.url_from is not None:
            options["url"] = _secret(part.url_from, resolver, (*here, "urlFrom"))
        options |= part.model_dump(exclude={"url", "url_from"})
    elif isinstance(part, AWSQueue):
        options["aws_region"] = part.region
        for name in ("access_key_id", "secret_access_key"):
            origin = getattr(part, f"{name}_from")
            alias = "accessKeyIdFrom" if name == "access_key_id" else "secretAccessKeyFrom"
            if origin is not None:
                options[f"aws_{name}"] = _secret(origin, resolver, (*here, alias))
    given = {key: value for key, value in options.items() if value is not None}
    return QueueSpec(type=section.type, options=given)


def _secret(source: SecretSource, resolver: Resolver, path: Path) -> str | None:
    return resolver.key("Secret", source.secret_key_ref, (*path, "secretKeyRef"))
