"""The Secrets and ConfigMaps of the user that pods read: a change of one rolls its pods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llamadeploy.spec.manifest import (
    AWSQueue,
    Broker,
    Component,
    DeploymentManifestSpec,
    MessageQueue,
    WorkflowServiceManifestSpec,
)
from llamadeploy.spec.manifest_common import FileSource, SecretSource
from llamadeploy_operator.desired.context import Consumed


def consumed(spec: DeploymentManifestSpec | WorkflowServiceManifestSpec) -> set[Consumed]:
    """What the pods of this resource itself read; of a Deployment that is not what its services
    name, which is theirs."""
    if isinstance(spec, WorkflowServiceManifestSpec):
        return {*of_component(spec), *of_overlay(spec.pod_template)}
    found = set(of_connections(spec))
    if spec.ui is not None:
        found |= {*of_component(spec.ui), *of_overlay(spec.ui.pod_template)}
    for section in (spec.control_plane, spec.orchestrator):
        found |= set(of_overlay(section.pod_template if section else None))
    return found


def of_connections(spec: DeploymentManifestSpec) -> Iterator[Consumed]:
    """What every process of the deployment reads: store, queue and signing keys."""
    plane = spec.control_plane
    store = plane.state_store if plane else None
    yield from _secrets((store.uri_from if store else None, spec.signing_key_from))
    if spec.message_queue is not None:
        yield from _of_queue(spec.message_queue)


def of_component(item: Component) -> Iterator[Consumed]:
    """What a service's or user interface's own pods read: source and environment."""
    source = item.source
    if source.git is not None:
        if source.git.credentials_secret_ref is not None:
            yield Consumed("Secret", source.git.credentials_secret_ref.name)
        if source.git.known_hosts_from is not None:
            yield _of_file(source.git.known_hosts_from)
    if source.config_map is not None:
        yield Consumed("ConfigMap", source.config_map.name)
    for variable in item.env or ():
        origin = variable.value_from
        if origin is not None and origin.secret_key_ref is not None:
            yield Consumed("Secret", origin.secret_key_ref.name)
        if origin is not None and origin.config_map_key_ref is not None:
            yield Consumed("ConfigMap", origin.config_map_key_ref.name)


def of_overlay(overlay: Mapping[str, Any] | None) -> Iterator[Consumed]:
    """What a podTemplate's containers take into their environment. What it mounts is left out:
    mounted files change by themselves."""
    spec = (overlay or {}).get("spec")
    for kind in ("containers", "initContainers"):
        for container in _mappings(spec, kind):
            for item in _mappings(container, "env"):
                origin = item.get("valueFrom")
                yield from _named(origin, "secretKeyRef", "configMapKeyRef")
            for item in _mappings(container, "envFrom"):
                yield from _named(item, "secretRef", "configMapRef")


def _mappings(item: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """The mappings in a list; what is no such thing is refused elsewhere."""
    found = item.get(key) if isinstance(item, Mapping) else None
    for each in found if isinstance(found, list) else ():
        if isinstance(each, Mapping):
            yield each


def _named(item: Any, secret_key: str, config_map_key: str) -> Iterator[Consumed]:
    for key, kind in ((secret_key, "Secret"), (config_map_key, "ConfigMap")):
        found = item.get(key) if isinstance(item, Mapping) else None
        name = found.get("name") if isinstance(found, Mapping) else None
        if isinstance(name, str) and name:
            yield Consumed("Secret" if kind == "Secret" else "ConfigMap", name)


def _of_queue(queue: MessageQueue) -> Iterator[Consumed]:
    section = getattr(queue, queue.type)
    if isinstance(section, Broker):
        yield from _secrets((section.url_from,))
    elif isinstance(section, AWSQueue):
        yield from _secrets((section.access_key_id_from, section.secret_access_key_from))


def _of_file(source: FileSource) -> Consumed:
    if source.secret_key_ref is not None:
        return Consumed("Secret", source.secret_key_ref.name)
    assert source.config_map_key_ref is not None  # noqa: S101 - the model has exactly one
    return Consumed("ConfigMap", source.config_map_key_ref.name)


def _secrets(sources: Iterable[SecretSource | None]) -> Iterator[Consumed]:
    for source in sources:
        if source is not None:
            yield Consumed("Secret", source.secret_key_ref.name)
