"""Every name and label the operator writes, in one place.

Names of children are derived from their owner's name alone, so that any operator finds them again.
They are DNS labels that begin with a letter and have at most 52 characters: a StatefulSet adds a
hash to its name and puts that into a label of 63.

A name that has to be changed to fit (upper case, ``_``, ``.``, too long) gets a hash of the
original, so that two names never become one. ``app.kubernetes.io/instance`` is not among the
labels: Argo CD takes objects that carry it for its own, and would delete those that we leave
behind on purpose.
"""

from __future__ import annotations

import base64
import hashlib
import re

from llamadeploy.spec.manifest import GROUP

MANAGER = "llamadeploy-operator"
"""Field manager of everything the operator applies, custom resources' status included."""

HANDOVER_MANAGER = "llamadeploy-handover"
"""Holds a live replica count between an inline ``replicas`` and ``kubectl scale``."""

AUTOSCALER_MANAGER = "llamadeploy-autoscaler"

MAX_NAME = 52
_MAX_SERVICE_NAME = MAX_NAME - len("-worker")
_MAX_LABEL = 63
_HASH_LENGTH = 6

CONTROL_PLANE = "control-plane"
ORCHESTRATOR = "orchestrator"
WORKER = "worker"
UI = "ui"
QUEUE = "queue"
STATE_STORE = "state-store"
RESOLVER = "resolver"
CONFIG = "config"
COMPONENTS = (CONTROL_PLANE, ORCHESTRATOR, WORKER, UI, QUEUE, STATE_STORE, RESOLVER, CONFIG)
"""Values of :data:`COMPONENT_LABEL`."""

DEPLOYMENT_LABEL = f"{GROUP}/deployment"
SERVICE_LABEL = f"{GROUP}/service"
COMPONENT_LABEL = f"{GROUP}/component"
WORKFLOW_SERVICE_LABEL = f"{GROUP}/workflowservice"
NAME_LABEL = "app.kubernetes.io/name"
APP_COMPONENT_LABEL = "app.kubernetes.io/component"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
PART_OF_LABEL = "app.kubernetes.io/part-of"
MANAGED_BY = {MANAGED_BY_LABEL: MANAGER}
"""What selects every child, for a watch."""

RESERVED_LABELS = frozenset(
    {
        DEPLOYMENT_LABEL, SERVICE_LABEL, COMPONENT_LABEL, WORKFLOW_SERVICE_LABEL, NAME_LABEL,
        APP_COMPONENT_LABEL, MANAGED_BY_LABEL, PART_OF_LABEL,
    }
)  # fmt: skip

SERVICE_NAME_ANNOTATION = f"{GROUP}/service-name"
"""The wire name as it is; a label may hold only a shortened form."""

CONSUMED_ANNOTATION = f"{GROUP}/consumed"
"""On pod templates: JSON of ``Kind/name`` -> hash of the Secrets and ConfigMaps the pods read."""

TEMPLATE_REVISION_ANNOTATION = f"{GROUP}/template-revision"
SOURCE_ANNOTATION = f"{GROUP}/source-hash"
COMMIT_ANNOTATION = f"{GROUP}/commit"

FORMER_LOCKS_ANNOTATION = f"{GROUP}/former-locks"
"""On pod templates: lock ConfigMaps of earlier revisions, whose pods may still be there."""

RELOAD_ANNOTATION = f"{GROUP}/reload"
"""Set by a person on a Deployment or WorkflowService; another value resolves its sources anew."""

REMOVED_ANNOTATION = f"{GROUP}/removed-at"
"""On the WorkflowService of an inline service that was removed: since when it drains."""

SIGNING_KEY = "signing-key"
API_TOKEN = "api-token"  # noqa: S105 - a key's name
QUEUE_PASSWORD = "queue-password"  # noqa: S105
QUEUE_COOKIE = "queue-erlang-cookie"
STORE_PASSWORD = "state-store-password"  # noqa: S105
"""Keys of the internal Secret."""

LOCK_COMMIT = "commit"
LOCK_REQUIREMENTS = "requirements.txt"
"""Keys of a lock ConfigMap."""

_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_ONE_WORD = re.compile(r"[a-z][a-z0-9]*")


def control_plane(deployment: str) -> str:
    """Deployment, Service, PodDisruptionBudget and ServiceAccount of the control plane."""
    return _child(deployment, CONTROL_PLANE)


def orchestrator(deployment: str) -> str:
    """Deployment, PodDisruptionBudget and ServiceAccount of the orchestrator."""
    return _child(deployment, ORCHESTRATOR)


def ui(deployment: str) -> str:
    """Deployment, Service and ServiceAccount of the user interface."""
    return _child(deployment, UI)


def queue(deployment: str) -> str:
    """StatefulSet and Service of the managed broker."""
    return _child(deployment, QUEUE)


def state_store(deployment: str) -> str:
    """StatefulSet and Service of the managed state store."""
    return _child(deployment, STATE_STORE)


def internal_secret(deployment: str) -> str:
    """The generated Secret: keys, tokens and passwords that were drawn once."""
    return _child(deployment, "internal")


def addresses_secret(deployment: str) -> str:
    """The Secret of what the resource itself holds in the clear and may be confidential: URLs."""
    return _child(deployment, "addresses")


def source_secret(owner: str) -> str:
    """The Secret of a source with a login in its URL, of a WorkflowService or of a Deployment's
    user interface."""
    return _child(owner, "source")


def config(deployment: str) -> str:
    """The ConfigMap of broker configurations and the CA bundle."""
    return _child(deployment, CONFIG)


def workers(deployment: str) -> str:
    """ServiceAccount of the workers and resolvers of a Deployment; NetworkPolicy of the workers."""
    return _child(deployment, "workers")


def workflow_service(deployment: str, service: str) -> str:
    """The WorkflowService of an inline service. Only one lower-case word is taken as it is: with a
    ``-`` in it, ``rag`` with ``eval-x`` and ``rag-eval`` with ``x`` would be the same."""
    base = _base(deployment, _MAX_SERVICE_NAME - 1)
    if _ONE_WORD.fullmatch(service) and len(base) + 1 + len(service) <= _MAX_SERVICE_NAME:
        return f"{base}-{service}"
    return _hashed(f"{deployment}-{service}", _MAX_SERVICE_NAME, f"{deployment}\0{service}")


def worker(workflow_service: str) -> str:
    """Deployment and PodDisruptionBudget of a WorkflowService."""
    return _child(workflow_service, WORKER)


def resolver_job(owner: str, source_hash: str) -> str:
    """The Job that resolves a source, of a WorkflowService or (for its ui) of a Deployment."""
    return f"{_base(owner, MAX_NAME - 20)}-resolve-{source_hash[:10]}"


def lock_config_map(owner: str, source_hash: str) -> str:
    """The ConfigMap with what that Job found."""
    return f"{_base(owner, MAX_NAME - 20)}-lock-{source_hash[:10]}"


def topic_namespace(namespace: str, deployment: str) -> str:
    """Prefix of topics and keys of a Deployment that sets none."""
    return f"{namespace}.{deployment}"


def labels(
    deployment: str, component: str, *, workflow_service: str = "", service: str = ""
) -> dict[str, str]:
    """Labels of a child and its pods.

    Args:
        deployment: the Deployment's name.
        component: one of :data:`COMPONENTS`.
        workflow_service: the WorkflowService's name, for its children.
        service: its name on the wire.
    """
    found = {
        NAME_LABEL: "llamadeploy",
        APP_COMPONENT_LABEL: component,
        PART_OF_LABEL: label_value(deployment),
        **MANAGED_BY,
        DEPLOYMENT_LABEL: label_value(deployment),
        COMPONENT_LABEL: component,
    }
    if workflow_service:
        found[WORKFLOW_SERVICE_LABEL] = label_value(workflow_service)
    if service:
        found[SERVICE_LABEL] = label_value(service)
    return found


def selector(deployment: str, component: str, *, workflow_service: str = "") -> dict[str, str]:
    """``matchLabels`` of a child's pods: labels that can never change, and nothing else."""
    if workflow_service:
        return {COMPONENT_LABEL: component, WORKFLOW_SERVICE_LABEL: label_value(workflow_service)}
    return {DEPLOYMENT_LABEL: label_value(deployment), COMPONENT_LABEL: component}


def label_value(text: str) -> str:
    """``text`` where it can be a label's value, else its nearest form with a hash."""
    if _LABEL_VALUE.fullmatch(text):
        return text
    slug = re.sub(r"[^A-Za-z0-9._-]", "-", text)
    head = slug[: _MAX_LABEL - _HASH_LENGTH - 1].strip("-._")
    return f"{head}-{_hash(text)}" if head else _hash(text)


def _child(owner: str, suffix: str) -> str:
    return f"{_base(owner, MAX_NAME - len(suffix) - 1)}-{suffix}"


def _base(owner: str, limit: int) -> str:
    """``owner`` as the beginning of a DNS label of at most ``limit`` characters."""
    if _DNS_LABEL.fullmatch(owner) and len(owner) <= limit:
        return owner
    return _hashed(owner, limit, owner)


def _hashed(text: str, limit: int, original: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not slug[:1].isalpha():
        slug = f"x-{slug}".rstrip("-")
    return f"{slug[: limit - _HASH_LENGTH - 1].rstrip('-')}-{_hash(original)}"


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.b32encode(digest).decode().lower()[:_HASH_LENGTH]
