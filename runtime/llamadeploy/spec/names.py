"""Patterns of names, and in words what each of them allows (for error messages)."""

from __future__ import annotations

import re

RESERVED_SERVICE_NAMES = frozenset({"control_plane"})
"""The control plane consumes the topic ``<namespace>.control_plane`` under this name."""

DEPLOYMENT_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
RESOURCE_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
SERVICE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
WORKFLOW_PATH = r"^[^:\s]+:[A-Za-z_][A-Za-z0-9_]*$"
TOPIC_NAMESPACE = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]*$"
QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$"

IN_WORDS = {
    QUANTITY: "write a quantity, such as 1Gi or 500Mi",
    DEPLOYMENT_NAME: (
        "use letters, digits, '-', '_' and '.', at most 63, beginning and ending with a letter or"
        " digit"
    ),
    RESOURCE_NAME: (
        "use lower-case letters, digits, '-' and '.', at most 253, beginning and ending with a"
        " letter or digit"
    ),
    SERVICE_NAME: (
        "use letters, digits, '_', '-' and '.', at most 128, beginning with a letter, digit or '_'"
    ),
    WORKFLOW_PATH: "write 'dir/module:attribute', such as 'src/workflow:echo_workflow'",
    TOPIC_NAMESPACE: (
        "use letters, digits, '_', '-' and '.', at most 128, beginning with a letter, digit or '_'"
    ),
    ENV_NAME: "use letters, digits, '_', '-' and '.', not beginning with a digit",
}


def resource_name(text: str) -> str:
    """The name of a Kubernetes object nearest to ``text``: lower case, other characters as '-'."""
    name = re.sub(r"[^a-z0-9.-]+", "-", text.lower()).strip("-.")[:253].rstrip("-.")
    return name or "deployment"
