"""Every right the operator uses, as data; the chart's roles are made from it, and a test reads the
audit log to see that none is missing and none is superfluous."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """One rule of a Role; ``why`` is for people."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str

    def manifest(self) -> dict[str, Any]:
        """As a Role has it."""
        return {
            "apiGroups": [self.group],
            "resources": list(self.resources),
            "verbs": list(self.verbs),
        }


WATCH = ("get", "list", "watch")
CHILD = (*WATCH, "create", "patch", "delete")

#: In each served namespace, or in all of them.
RULES = (
    Rule("llamadeploy.io", ("llamadeployments",), ("list", "watch"), "what people ask for"),
    Rule("llamadeploy.io", ("llamadeployments/status", "workflowservices/status"), ("patch",),
         "what became of it"),
    Rule("llamadeploy.io", ("workflowservices",), ("list", "watch", "create", "patch", "delete"),
         "one for each inline service"),
    Rule("llamadeploy.io", ("workflowservices/scale",), ("patch",), "the autoscaler's number"),
    Rule("apps", ("deployments",), CHILD, "pods"),
    Rule("apps", ("statefulsets",), (*WATCH, "create", "patch"),
         "managed brokers and stores; only the garbage collector ever deletes one"),
    Rule("", ("services", "serviceaccounts"), CHILD, "addresses and identities of pods"),
    Rule("", ("secrets", "configmaps"), CHILD,
         "generated ones; those that pods read, for their hashes"),
    Rule("policy", ("poddisruptionbudgets",), CHILD, "voluntary disruptions"),
    Rule("networking.k8s.io", ("networkpolicies",), CHILD, "who may reach pods"),
    Rule("batch", ("jobs",), CHILD, "resolving sources"),
    Rule("", ("pods",), ("list", "watch"), "why something is not ready"),
    Rule("", ("persistentvolumeclaims",), WATCH, "why not; and whose a volume is"),
    Rule("", ("pods",), ("patch",), "which of them go first when a service is scaled in"),
    Rule("", ("pods/log",), ("get",), "what a resolver Job found"),
    Rule("", ("events",), ("create",), "what a person would want to know"),
)  # fmt: skip

#: Only where the API exists.
POD_MONITOR_RULE = Rule("monitoring.coreos.com", ("podmonitors",), CHILD, "metrics of pods")

#: Only where KEDA is installed.
KEDA_RULE = Rule(
    "keda.sh", ("scaledobjects", "triggerauthentications"),
    ("list", "watch", "create", "patch", "delete"), "services that KEDA scales",
)  # fmt: skip

#: In the Lease's namespace.
LEASE_RULE = Rule(
    "coordination.k8s.io", ("leases",), ("get", "create", "update"), "one replica works at a time"
)


def role(name: str, namespace: str | None, rules: tuple[Rule, ...]) -> dict[str, Any]:
    """A Role, or without a namespace a ClusterRole."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role" if namespace else "ClusterRole",
        "metadata": metadata,
        "rules": [rule.manifest() for rule in rules],
    }
