"""Contexts for the builders, from files that are written as a user would."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamadeploy.spec.manifest import DeploymentManifest, WorkflowServiceManifest
from llamadeploy_operator.desired import (
    DeploymentContext,
    Manifest,
    OperatorDefaults,
    Owner,
    Parent,
    Resolution,
    ServiceContext,
    choose_pin,
    consumed,
    deployment_children,
    internal_keys,
    internal_secret,
    internal_value,
    needed,
    service_children,
)

INPUTS = Path(__file__).parent / "inputs"
NAMESPACE = "team-a"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOCK = "httpx==0.28.1 \\\n    --hash=sha256:" + "a" * 64 + "\n"


# What Kubernetes' Pod Security Standard *restricted* (and *baseline*, which it includes) asks for:
# https://kubernetes.io/docs/concepts/security/pod-security-standards/
_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip


def violations(spec: dict[str, Any]) -> list[str]:
    """What the standard forbids in a pod's spec; empty where it is met."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            found.append(f"volume {volume['name']}: {sorted(kinds - _VOLUMES)}")
    context = spec.get("securityContext", {})
    if context.get("sysctls"):
        found.append("sysctls")
    for kind in ("initContainers", "containers"):
        for container in spec.get(kind, []):
            found += _of_container(container, context)
    return found


def _of_container(container: dict[str, Any], pod: dict[str, Any]) -> list[str]:
    own = container.get("securityContext", {})
    both = {**pod, **own}
    capabilities = own.get("capabilities", {})
    seccomp = both.get("seccompProfile", {}).get("type")
    checks = {
        "privileged": own.get("privileged"),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
        "runAsNonRoot": both.get("runAsNonRoot") is not True,
        "runAsUser": both.get("runAsUser") == 0,
        "seccompProfile": seccomp not in ("RuntimeDefault", "Localhost"),
        "capabilities.drop": "ALL" not in capabilities.get("drop", []),
        "capabilities.add": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
        "procMount": own.get("procMount", "Default") != "Default",
        "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
    }
    return [f"{container['name']}: {name}" for name, wrong in checks.items() if wrong]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden", action="store_true", help="write tests/operator/desired/golden anew"
    )


@dataclass
class Case:
    """A Deployment with its WorkflowServices, resolved, and all their children."""

    deployment: DeploymentContext
    services: list[ServiceContext] = field(default_factory=list)

    @property
    def children(self) -> list[Manifest]:
        """Of the Deployment, then of its services."""
        found = deployment_children(self.deployment)
        for service in self.services:
            found += service_children(service)
        return found

    def child(self, kind: str, name: str) -> Manifest:
        """One of them."""
        for each in self.children:
            if (each["kind"], each["metadata"]["name"]) == (kind, name):
                return each
        have = sorted((e["kind"], e["metadata"]["name"]) for e in self.children)
        raise AssertionError(f"no {kind} {name}; there are {have}")


USERS_SECRETS = {
    ("broker", "url"): "redis://:word@redis.example.org",
    ("state", "uri"): "postgresql://db.example.org/llama",
    ("keys", "ring"): "mine:" + "A" * 43,
    ("aws", "id"): "AKIA123",
    ("aws", "key"): "abc/def+ghi",
    ("openai", "api-key"): "sk-1",
    ("extra", "x"): "y",
}


def container_environ(case: Any, container: dict[str, Any]) -> dict[str, str]:
    """A container's environment as Kubernetes makes it: Secrets read, ``$(NAME)`` expanded."""
    keys = internal_keys(case.deployment.spec)
    values = {key: internal_value(key, key.encode().ljust(32, b".")) for key in keys}
    secrets = dict(USERS_SECRETS)
    for each in [internal_secret(case.deployment, values), *case.children]:
        if each["kind"] == "Secret":
            for key, text in each["data"].items():
                secrets[each["metadata"]["name"], key] = base64.b64decode(text).decode()
    environ: dict[str, str] = {}
    for item in container["env"]:
        origin = item.get("valueFrom", {})
        if "secretKeyRef" in origin:
            reference = origin["secretKeyRef"]
            environ[item["name"]] = secrets[reference["name"], reference["key"]]
        elif "fieldRef" in origin:
            environ[item["name"]] = "the-pod"
        else:
            environ[item["name"]] = expanded(item["value"], environ)
    return environ


def expanded(text: str, environ: dict[str, str]) -> str:
    """Kubernetes' own rule: ``$$`` escapes, unknown names stay as they are."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return environ.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]+)\)", value, text)


def make_case(documents: list[dict[str, Any]], defaults: OperatorDefaults) -> Case:
    """Contexts as the reconciler makes them once every source is resolved."""
    manifest = DeploymentManifest.model_validate(documents[0])
    spec = manifest.spec
    owner = _owner("Deployment", manifest.metadata.name)
    context = DeploymentContext(
        owner=owner,
        spec=spec,
        defaults=defaults,
        pin=choose_pin(spec, defaults, None),
        hashes={each: f"hash-of-{each.name}" for each in consumed(spec)},
        state_store_scheme="postgresql",
    )
    case = Case(resolved(context))
    parent = Parent(owner, spec, context.pin, context.state_store_scheme)
    inline = [each for each in deployment_children(context) if each["kind"] == "WorkflowService"]
    for document in [*inline, *documents[1:]]:
        service = WorkflowServiceManifest.model_validate(document)
        case.services.append(
            resolved(
                ServiceContext(
                    owner=_owner("WorkflowService", service.metadata.name),
                    spec=service.spec,
                    replicas=1 if service.spec.replicas is None else service.spec.replicas,
                    parent=parent,
                    defaults=defaults,
                    hashes={
                        each: f"hash-of-{each.name}"
                        for each in consumed(service.spec) | consumed(spec)
                    },
                )
            )
        )
    return case


def resolved(context: Any) -> Any:
    """The context with what its resolver Job would have found."""
    wanted = needed(context)
    if wanted is None:
        return context
    lock = LOCK if wanted.requirements else ""
    commit = COMMIT if wanted.git else None
    return replace(context, resolution=Resolution(wanted.source_hash, commit, lock))


def _owner(kind: str, name: str) -> Owner:
    return Owner("llamadeploy.io/v1alpha1", kind, name, NAMESPACE, f"uid-of-{kind}-{name}")


@pytest.fixture
def defaults() -> OperatorDefaults:
    """Operator settings; with an index whose URL has a login, so that this is covered."""
    return OperatorDefaults(
        runtime_image="registry.example.org/llamadeploy:0.1.0",
        image_pull_secrets=("registry",),
        index_url="https://reader:word@pypi.example.org/simple",
        admitted_namespaces=("ingress",),
    )


@pytest.fixture
def load(defaults: OperatorDefaults) -> Callable[[str], Case]:
    """``inputs/NAME.yaml`` as a :class:`Case`."""

    def _load(name: str) -> Case:
        text = (INPUTS / f"{name}.yaml").read_text()
        return make_case(list(yaml.safe_load_all(text)), defaults)

    return _load


@pytest.fixture
def case(defaults: OperatorDefaults) -> Callable[..., Case]:
    """A Deployment ``app`` of the given spec, as a :class:`Case`."""

    def _case(spec: dict[str, Any], *more: dict[str, Any], **settings: Any) -> Case:
        document = {
            "apiVersion": "llamadeploy.io/v1alpha1",
            "kind": "Deployment",
            "metadata": {"name": "app"},
            "spec": spec,
        }
        return make_case([document, *more], replace(defaults, **settings))

    return _case


@pytest.fixture
def restricted() -> Callable[[dict[str, Any]], list[str]]:
    """What the standard forbids in a pod's spec."""
    return violations


@pytest.fixture
def environ_of() -> Callable[[Case, dict[str, Any]], dict[str, str]]:
    """A container's environment as Kubernetes makes it."""
    return container_environ
