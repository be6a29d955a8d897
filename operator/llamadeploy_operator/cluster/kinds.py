"""The kinds the operator deals with: where they live in the API, and who makes them. Data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamadeploy.spec.manifest import API_VERSION


@dataclass(frozen=True, order=True)
class Kind:
    """One kind: ``api_version`` and ``kind`` as in a manifest, ``plural`` as in its URL."""

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    @property
    def resource(self) -> str:
        """The name that people and RBAC use: ``deployments.apps``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str | None = None, sub: str = "") -> str:
        """The path of a collection (without ``name``), an object or its subresource."""
        base = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        parts = [base]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, sub) if part]
        return "/".join(parts)


DEPLOYMENT = Kind(API_VERSION, "Deployment", "llamadeployments")
WORKFLOW_SERVICE = Kind(API_VERSION, "WorkflowService", "workflowservices")

APP = Kind("apps/v1", "Deployment", "deployments")
STATEFUL_SET = Kind("apps/v1", "StatefulSet", "statefulsets")
SERVICE = Kind("v1", "Service", "services")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SECRET = Kind("v1", "Secret", "secrets")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
POD_DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
JOB = Kind("batch/v1", "Job", "jobs")
POD_MONITOR = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors")
SCALED_OBJECT = Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
TRIGGER_AUTHENTICATION = Kind("keda.sh/v1alpha1", "TriggerAuthentication", "triggerauthentications")
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
VOLUME_CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")

#: What the operator applies, watches in full and prunes. ``PodMonitor`` only where it exists.
APPLIED = (
    WORKFLOW_SERVICE,
    APP,
    STATEFUL_SET,
    SERVICE,
    SERVICE_ACCOUNT,
    POD_DISRUPTION_BUDGET,
    NETWORK_POLICY,
    JOB,
)
#: Watched by their metadata alone: their contents may be large, secret, and other people's.
METADATA_ONLY = (SECRET, CONFIG_MAP)

#: Where KEDA is installed: watched by their metadata, which tell whether they are as applied.
KEDA = (SCALED_OBJECT, TRIGGER_AUTHENTICATION)

BY_KIND: dict[str, Kind] = {}
"""Children by their bare kind; our own ``Deployment`` is not among them."""

_BY_TYPE = {
    (kind.api_version, kind.kind): kind
    for kind in (
        DEPLOYMENT,
        *APPLIED,
        *METADATA_ONLY,
        POD_MONITOR,
        *KEDA,
        POD,
        EVENT,
        LEASE,
        VOLUME_CLAIM,
    )
}


def kind_of(manifest: Mapping[str, Any]) -> Kind:
    """The kind of a manifest.

    Raises:
        KeyError: for a kind the operator has nothing to do with; a defect of a builder.
    """
    return _BY_TYPE[manifest["apiVersion"], manifest["kind"]]


BY_KIND |= {
    kind.kind: kind for kind in (*APPLIED, *METADATA_ONLY, POD_MONITOR, *KEDA, VOLUME_CLAIM)
}
