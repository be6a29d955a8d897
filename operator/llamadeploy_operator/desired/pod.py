"""What all pods share: Pod Security Standard *restricted*, probes, spread, scratch volumes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamadeploy.settings import METRICS_PORT
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import LiveWorkload, Manifest, OperatorDefaults
from llamadeploy_operator.desired.env import CA_FOLDER
from llamadeploy_operator.desired.plain import canonical, without_none

UID = 65532
"""Has a passwd entry in our image; other images do not need one."""

HOME = "/home/llamadeploy"
TMPDIR = "/tmp"  # noqa: S108 - a volume of the pod's own
SPREAD_KEYS = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")

RESTRICTED: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""A container's security context."""


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod template before the user's overlay.

    Attributes:
        labels: of the pods; ``selector`` is the part that finds them.
        container: the main one, without what every container gets.
        init: init containers, in order.
        annotations: beside those that every template has.
        spread: one replica more on this node counts as worse; not for single pods.
        grace: ``terminationGracePeriodSeconds``.
        home_size, tmp_size: limits of the scratch volumes.
    """

    labels: Mapping[str, str]
    selector: Mapping[str, str]
    service_account: str
    container: Manifest
    revision: int
    init: Sequence[Manifest] = ()
    volumes: Sequence[Manifest] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    spread: bool = True
    grace: int = 30
    home_size: str = "64Mi"
    tmp_size: str = "512Mi"


def pod_template(plan: PodPlan, defaults: OperatorDefaults) -> Manifest:
    """The template."""
    ca = bool(defaults.ca_bundle)
    spec: Manifest = {
        "serviceAccountName": plan.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": plan.grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_hardened(plan.container, defaults, ca)],
        "volumes": [
            {"name": "home", "emptyDir": {"sizeLimit": plan.home_size}},
            {"name": "tmp", "emptyDir": {"sizeLimit": plan.tmp_size}},
            *plan.volumes,
        ],
    }
    if plan.init:
        spec["initContainers"] = [_hardened(each, defaults, ca) for each in plan.init]
    if defaults.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in defaults.image_pull_secrets]
    if plan.spread:
        spec["topologySpreadConstraints"] = [_spread(key, plan.selector) for key in SPREAD_KEYS]
    annotations = {names.TEMPLATE_REVISION_ANNOTATION: str(plan.revision), **plan.annotations}
    return {
        "metadata": {"labels": dict(plan.labels), "annotations": annotations},
        "spec": spec,
    }


def consumed_annotation(
    hashes: Mapping[str, str | None], live: LiveWorkload | None
) -> dict[str, str]:
    """The annotation that rolls pods when what they read changes.

    Args:
        hashes: ``Kind/name`` -> hash. ``None`` is one that cannot be read now: what the live pods
            were started with stays, so that an outage of the API server or a deleted Secret never
            restarts them.
    """
    recorded = recorded_hashes(live)
    found = {key: value or recorded.get(key) for key, value in sorted(hashes.items())}
    kept = without_none(found)
    return {names.CONSUMED_ANNOTATION: canonical(kept)} if kept else {}


def recorded_hashes(live: LiveWorkload | None) -> dict[str, str]:
    """What the live pods were started with; empty where that cannot be told."""
    if live is None:
        return {}
    metadata = live.template.get("metadata") or {}
    text = (metadata.get("annotations") or {}).get(names.CONSUMED_ANNOTATION, "{}")
    try:
        found = json.loads(text)
    except ValueError:  # somebody edited it: the pods roll once, and it is right again
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def http_probes(*, startup_seconds: int) -> Manifest:
    """Probes on the metrics port.

    Args:
        startup_seconds: how long the first success may take.
    """
    return {
        "startupProbe": {
            "httpGet": {"path": "/healthz", "port": "metrics"},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": startup_seconds // 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "metrics"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "metrics"},
            "periodSeconds": 5,
            "timeoutSeconds": 3,
            "failureThreshold": 2,
        },
    }


METRICS = {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}


def port(name: str, number: int) -> Manifest:
    """A container's TCP port."""
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def resources(cpu: str, memory: str, limit: str) -> Manifest:
    """Requests, and a memory limit; no CPU limit, which would only slow things down."""
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}


def _hardened(container: Manifest, defaults: OperatorDefaults, ca: bool) -> Manifest:
    mounts = [
        {"name": "home", "mountPath": HOME},
        {"name": "tmp", "mountPath": TMPDIR},
        *container.get("volumeMounts", ()),
    ]
    if ca:
        mounts.append({"name": "ca", "mountPath": CA_FOLDER, "readOnly": True})
    folders = [{"name": "HOME", "value": HOME}, {"name": "TMPDIR", "value": TMPDIR}]
    own = {item["name"] for item in container.get("env", ())}
    hardened = {
        **container,
        "env": [*(each for each in folders if each["name"] not in own), *container.get("env", ())],
        "volumeMounts": mounts,
        "securityContext": RESTRICTED | container.get("securityContext", {}),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if defaults.image_pull_policy is not None:
        hardened["imagePullPolicy"] = defaults.image_pull_policy
    return hardened


def _spread(key: str, selector: Mapping[str, str]) -> Manifest:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": dict(selector)},
        "matchLabelKeys": ["pod-template-hash"],
    }


def ca_volumes(defaults: OperatorDefaults, deployment: str) -> list[Any]:
    """The volume of :data:`CA_FOLDER`, where there is a bundle."""
    if not defaults.ca_bundle:
        return []
    items = [{"key": "ca.crt", "path": "ca.crt"}]
    return [{"name": "ca", "configMap": {"name": names.config(deployment), "items": items}}]
