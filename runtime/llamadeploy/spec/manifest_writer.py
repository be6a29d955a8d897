"""A deployment -> the custom resources that mean the same."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import yaml

from llamadeploy.spec.cluster_only import deep_merge
from llamadeploy.spec.config_maps import MAX_BYTES, ConfigMaps
from llamadeploy.spec.deployment import (
    ComponentSpec,
    ControlPlaneSpec,
    DeploymentSpec,
    QueueSpec,
    ServiceSpec,
    SourceSpec,
    UiSpec,
)
from llamadeploy.spec.local_sources import LocalFiles, inline_local_sources
from llamadeploy.spec.manifest import API_VERSION, SOLACE_CURE
from llamadeploy.spec.names import RESOURCE_NAME, resource_name
from llamadeploy.spec.problems import SpecError, SpecProblem
from llamadeploy.spec.queue_address import DEFAULT_URLS

_SERVICE_OPTIONS = {
    "description": "description",
    "replicas": "replicas",
    "max_concurrent_tasks": "maxConcurrentTasks",
    "session_policy": "sessionPolicy",
    "timeout": "timeoutSeconds",
    "wait_timeout": "waitTimeoutSeconds",
    "queue_timeout": "queueTimeoutSeconds",
    "max_retries": "maxRetries",
    "retry_on_error": "retryOnError",
    "broadcast": "broadcast",
}


def to_manifests(spec: DeploymentSpec, *, local_files: LocalFiles | None = None) -> str:
    """YAML of ``spec`` as custom resources, with the Secrets and ConfigMaps they refer to.

    ``load_deployment`` of it gives an equivalent deployment. What a pod decides (hosts, ports, the
    names of stores) is left out, and a comment says so.

    Args:
        local_files: the files of local sources: source name -> relative path -> text. They go into
            ConfigMaps.

    Raises:
        SpecError: a local source without files, files too large for a ConfigMap, or solace.
    """
    return _Writer(inline_local_sources(spec, local_files or {})).write()


class _Writer:
    """Collects the objects of one deployment."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self._spec = spec
        self._name = spec.name
        self._comments: list[str] = []
        self._secrets: dict[str, dict[str, str]] = {}
        self._config_maps = ConfigMaps()
        if not re.fullmatch(RESOURCE_NAME, spec.name):
            self._name = resource_name(spec.name)
            self._comments.append(f"name: {spec.name} cannot be an object's name")

    def write(self) -> str:
        for component in self._components():
            self._collect(component)
        self._check_sizes()
        deployment = self._object("Deployment", API_VERSION, self._name, {"spec": self._body()})
        objects = [
            *(
                self._object("Secret", "v1", name, {"stringData": data})
                for name, data in self._secrets.items()
            ),
            *(
                self._object("ConfigMap", "v1", name, {"data": data})
                for name, data in self._config_maps.data.items()
            ),
            deployment,
        ]
        head = "".join(f"# Not carried over: {comment}\n" for comment in self._comments)
        return head + "---\n".join(_dump(item) for item in objects)

    def _components(self) -> list[ComponentSpec]:
        ui: list[ComponentSpec] = [self._spec.ui] if self._spec.ui else []
        return [*self._spec.services.values(), *ui]

    def _collect(self, component: ComponentSpec) -> None:
        source = component.source
        if source.type == "configmap" and source.name is not None:
            self._config_maps.add(source.name, source.files)
        if source.known_hosts is not None:
            name = self._child(component, "known-hosts")
            self._config_maps.add(name, {"known_hosts": source.known_hosts})

    def _check_sizes(self) -> None:
        problems = [
            SpecProblem(
                f"ConfigMap/{name}",
                f"its files have {size} bytes",
                f"a ConfigMap holds at most {MAX_BYTES}; use a git source",
            )
            for name, size in self._config_maps.sizes().items()
            if size > MAX_BYTES
        ]
        if problems:
            raise SpecError(problems)

    def _object(self, kind: str, version: str, name: str, rest: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": name}
        if self._spec.namespace is not None:
            metadata["namespace"] = self._spec.namespace
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}

    def _body(self) -> dict[str, Any]:
        spec = self._spec
        body: dict[str, Any] = {
            "defaultService": spec.default_service,
            "controlPlane": self._control_plane(spec.control_plane),
            "messageQueue": self._queue(spec.message_queue),
            "services": {name: self._service(item) for name, item in spec.services.items()},
            "ui": self._ui(spec.ui) if spec.ui else None,
        }
        if "messageQueue" in spec.cluster_only:
            del body["messageQueue"]  # it is simple only because this machine runs no broker
        body = deep_merge(_present(body), spec.cluster_only)
        body["services"] = [
            {"name": name, **item} for name, item in body.get("services", {}).items()
        ]
        return _present(body)

    def _control_plane(self, section: ControlPlaneSpec) -> dict[str, Any]:
        defaults = ControlPlaneSpec()
        for field in ControlPlaneSpec.model_fields:
            kept = field in ("topic_namespace", "cors_origins", "state_store_uri")
            if not kept and getattr(section, field) != getattr(defaults, field):
                self._comments.append(f"control-plane.{field}: decided by the pod")
        uri = section.state_store_uri
        store = self._address("uri", uri, "state-store-uri") if uri is not None else None
        return _present(
            {
                "topicNamespace": section.topic_namespace,
                "corsOrigins": section.cors_origins,
                "stateStore": store,
            }
        )

    def _queue(self, queue: QueueSpec) -> dict[str, Any]:
        options = queue.options
        if queue.type == "solace":
            problem = SpecProblem("message-queue.type", "solace is not supported", SOLACE_CURE)
            raise SpecError([problem])
        section: dict[str, Any] = {}
        if queue.type == "simple":
            self._comments += [f"message-queue.{key}: decided by the pod" for key in options]
        elif queue.type == "aws":
            section = self._aws(options)
        else:
            section = self._address("url", self._broker_url(queue), "queue-url")
        section |= _present(
            {
                "exclusiveMode": options.get("exclusive_mode"),
                "exchangeName": options.get("exchange_name"),
            }
        )
        return {"type": queue.type, **({queue.type: section} if section else {})}

    def _broker_url(self, queue: QueueSpec) -> str:
        default = DEFAULT_URLS[queue.type]
        if "url" not in queue.options:
            where = "the file names no broker; the address below is the default, change it"
            self._comments.append(f"message-queue.url: {where}")
        return str(queue.options.get("url", default))

    def _aws(self, options: dict[str, Any]) -> dict[str, Any]:
        section = {"region": options.get("aws_region")}
        for option, field, key in (
            ("aws_access_key_id", "accessKeyIdFrom", "aws-access-key-id"),
            ("aws_secret_access_key", "secretAccessKeyFrom", "aws-secret-access-key"),
        ):
            if option in options:
                section[field] = self._secret_ref(key, options[option])
        return _present(section)

    def _service(self, service: ServiceSpec) -> dict[str, Any]:
        body = {"path": service.path, **self._component(service, f"services.{service.name}")}
        for field, alias in _SERVICE_OPTIONS.items():
            value = getattr(service, field)
            given = field == "replicas" and field in service.model_fields_set
            if given or value != ServiceSpec.model_fields[field].default:
                body[alias] = _plain(value)
        return body

    def _ui(self, ui: UiSpec) -> dict[str, Any]:
        body = self._component(ui, "ui")
        return {"name": ui.name, **_present({"path": ui.path, "port": ui.port}), **body}

    def _component(self, item: ComponentSpec, at: str) -> dict[str, Any]:
        lost = ("host",) if isinstance(item, UiSpec) else ("host", "port")
        for field in lost:
            if getattr(item, field) is not None:
                self._comments.append(f"{at}.{field}: decided by the pod")
        return _present(
            {
                "source": self._source(item),
                "env": self._env(item),
                "envFiles": item.env_files or None,
                "pythonDependencies": item.python_dependencies or None,
                "tsDependencies": item.ts_dependencies or None,
            }
        )

    def _env(self, item: ComponentSpec) -> list[dict[str, Any]] | None:
        prefix = "ui" if isinstance(item, UiSpec) else f"service.{item.name}"
        variables: list[dict[str, Any]] = []
        for name, value in item.env.items():
            if name in item.secret_env:
                origin = self._secret_ref(f"{prefix}.{name}", value)
                variables.append({"name": name, "valueFrom": origin})
            else:
                variables.append({"name": name, "value": value})
        return variables or None

    def _source(self, item: ComponentSpec) -> dict[str, Any]:
        source = item.source
        if source.type == "git":
            return {"git": self._git(item, source)}
        if source.type == "image":
            return {"image": _present({"image": source.image})}
        return {"configMap": self._config_maps.source(source.name or "", source.files)}

    def _git(self, item: ComponentSpec, source: SourceSpec) -> dict[str, Any]:
        body: dict[str, Any] = _present({"url": source.url, "ref": source.ref})
        if source.credentials:
            name = source.credentials_secret or self._child(item, "git")
            self._secrets[name] = source.credentials
            body["credentialsSecretRef"] = {"name": name}
        if source.known_hosts is not None:
            selector = {"name": self._child(item, "known-hosts"), "key": "known_hosts"}
            body["knownHostsFrom"] = {"configMapKeyRef": selector}
        return body

    def _address(self, field: str, address: str, key: str) -> dict[str, Any]:
        """The address itself, or where it holds a user or password, a Secret's key."""
        if "@" in urlsplit(address).netloc or "password" in urlsplit(address).query:
            return {f"{field}From": self._secret_ref(key, address)}
        return {field: address}

    def _secret_ref(self, key: str, value: str) -> dict[str, Any]:
        name = f"{self._name}-secrets"
        self._secrets.setdefault(name, {})[key] = value
        return {"secretKeyRef": {"name": name, "key": key}}

    def _child(self, item: ComponentSpec, suffix: str) -> str:
        part = "ui" if isinstance(item, UiSpec) else item.name
        return resource_name(f"{self._name}-{part}-{suffix}")


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    """``fields`` without those that are not given."""
    return {key: value for key, value in fields.items() if value is not None and value != {}}


def _plain(value: Any) -> Any:
    """Enums as their text, whole numbers without a fraction."""
    if isinstance(value, str):
        return str(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Dumper(yaml.SafeDumper):
    """Block style for texts of several lines, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _dump(item: dict[str, Any]) -> str:
    return yaml.dump(item, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
