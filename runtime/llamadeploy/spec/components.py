"""Services and UI of a manifest -> their specs."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from llamadeploy.spec.cluster_only import ClusterOnly
from llamadeploy.spec.deployment import ServiceSpec, SourceSpec, UiSpec
from llamadeploy.spec.manifest import Component, ConfigMapSource, GitSource, ServiceFields, Ui
from llamadeploy.spec.manifest_common import EnvVar, FileSource
from llamadeploy.spec.objects import Resolver
from llamadeploy.spec.problems import Path

_SERVICE_FIELDS = {
    "description": "description",
    "replicas": "replicas",
    "max_concurrent_tasks": "max_concurrent_tasks",
    "session_policy": "session_policy",
    "timeout_seconds": "timeout",
    "wait_timeout_seconds": "wait_timeout",
    "queue_timeout_seconds": "queue_timeout",
    "max_retries": "max_retries",
    "retry_on_error": "retry_on_error",
    "broadcast": "broadcast",
}
"""Manifest field -> field of ServiceSpec."""


def service_spec(
    name: str, item: ServiceFields, resolver: Resolver, path: Path, only: ClusterOnly
) -> ServiceSpec:
    """One service; ``path`` leads to it in the resolver's document."""
    fields = _component(item, resolver, path, ("services", name), only)
    for source, target in _SERVICE_FIELDS.items():
        if (value := getattr(item, source)) is not None:
            fields[target] = value
    keep = ("services", name, "autoscaling")
    only.take(resolver.document, (*path, "autoscaling"), keep)
    return ServiceSpec(name=name, path=item.path, **fields)


def ui_spec(item: Ui, resolver: Resolver, path: Path, only: ClusterOnly) -> UiSpec:
    """The user interface."""
    fields = _component(item, resolver, path, ("ui",), only)
    return UiSpec(name=item.name, path=item.path, port=item.port, **fields)


def _component(
    item: Component, resolver: Resolver, path: Path, keep: Path, only: ClusterOnly
) -> dict[str, Any]:
    only.take(resolver.document, (*path, "podTemplate"), (*keep, "podTemplate"))
    env, secret_env = _env(item.env or [], resolver, (*path, "env"), keep, only)
    return {
        "source": _source(item, resolver, (*path, "source")),
        "env": env,
        "secret_env": secret_env,
        "env_files": item.env_files or [],
        "python_dependencies": item.python_dependencies or [],
        "ts_dependencies": item.ts_dependencies or {},
    }


def _env(
    variables: list[EnvVar], resolver: Resolver, path: Path, keep: Path, only: ClusterOnly
) -> tuple[dict[str, str], list[str]]:
    env: dict[str, str] = {}
    secret: list[str] = []
    of_the_pod: list[Any] = []
    for index, variable in enumerate(variables):
        here = (*path, index)
        if variable.name in env:
            wrong = f"the variable '{variable.name}' appears twice"
            resolver.problem((*here, "name"), wrong, "keep one of them")
        if variable.value_from is None:
            env[variable.name] = variable.value or ""
            continue
        origin, at = variable.value_from, (*here, "valueFrom")
        if origin.secret_key_ref is not None:
            value = resolver.key("Secret", origin.secret_key_ref, (*at, "secretKeyRef"))
            secret.append(variable.name)
        elif origin.config_map_key_ref is not None:
            value = resolver.key("ConfigMap", origin.config_map_key_ref, (*at, "configMapKeyRef"))
        else:
            of_the_pod.append(variable.model_dump(by_alias=True, exclude_none=True))
            only.take(resolver.document, here, (*keep, "env"))
            continue
        if value is not None:
            env[variable.name] = value
    if of_the_pod:
        _keep_list(only, (*keep, "env"), of_the_pod)
    return env, sorted(name for name in secret if name in env)


def _keep_list(only: ClusterOnly, path: Path, items: list[Any]) -> None:
    target = only.values
    for part in path[:-1]:
        target = target[str(part)]
    target[str(path[-1])] = items


def _source(item: Component, resolver: Resolver, path: Path) -> SourceSpec:
    source = item.source
    if source.git is not None:
        return _git(source.git, resolver, (*path, "git"))
    if source.image is not None:
        return SourceSpec(type="image", image=source.image.image)
    assert source.config_map is not None  # noqa: S101  (the model has exactly one)
    return _config_map(source.config_map, resolver, (*path, "configMap"))


def _git(git: GitSource, resolver: Resolver, path: Path) -> SourceSpec:
    spec = SourceSpec(type="git", url=git.url.get_secret_value(), ref=git.ref)
    if git.credentials_secret_ref is not None:
        spec.credentials_secret = git.credentials_secret_ref.name
        at = (*path, "credentialsSecretRef")
        spec.credentials = resolver.data("Secret", spec.credentials_secret, at) or {}
    if git.known_hosts_from is not None:
        spec.known_hosts = _text(git.known_hosts_from, resolver, (*path, "knownHostsFrom"))
    return spec


def _text(source: FileSource, resolver: Resolver, path: Path) -> str | None:
    if source.secret_key_ref is not None:
        return resolver.key("Secret", source.secret_key_ref, (*path, "secretKeyRef"))
    if source.config_map_key_ref is not None:
        return resolver.key("ConfigMap", source.config_map_key_ref, (*path, "configMapKeyRef"))
    return None


def _config_map(source: ConfigMapSource, resolver: Resolver, path: Path) -> SourceSpec:
    data = resolver.data("ConfigMap", source.name, path)
    if data is None:
        return SourceSpec(type="configmap", name=source.name)
    files = dict(data)
    if source.items is not None:
        files = {}
        for index, item in enumerate(source.items):
            at = (*path, "items", index)
            if item.key not in data:
                wrong = f"the ConfigMap '{source.name}' has no key '{item.key}'"
                resolver.problem((*at, "key"), wrong, f"its keys: {', '.join(sorted(data))}")
            elif ".." in PurePosixPath(item.path).parts:
                right = "write a path below the source's folder"
                resolver.problem((*at, "path"), f"{item.path!r} leads outside", right)
            else:
                files[item.path] = data[item.key]
    return SourceSpec(type="configmap", name=source.name, files=files)
