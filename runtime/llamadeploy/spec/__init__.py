"""Deployments as text: both forms of file in, one model out.

Pure: text in, values out; nothing is read, run or connected to.
"""

from __future__ import annotations

from llamadeploy.spec.deployment import (
    ControlPlaneSpec,
    DeploymentSpec,
    QueueSpec,
    ServiceSpec,
    SourceSpec,
    UiSpec,
)
from llamadeploy.spec.import_targets import ImportTarget, candidate_imports
from llamadeploy.spec.laptop import unsupported_on_laptop
from llamadeploy.spec.loader import load_deployment, load_deployments
from llamadeploy.spec.manifest_writer import to_manifests
from llamadeploy.spec.problems import SpecError, SpecProblem

__all__ = [
    "ControlPlaneSpec",
    "DeploymentSpec",
    "ImportTarget",
    "QueueSpec",
    "ServiceSpec",
    "SourceSpec",
    "SpecError",
    "SpecProblem",
    "UiSpec",
    "candidate_imports",
    "load_deployment",
    "load_deployments",
    "to_manifests",
    "unsupported_on_laptop",
]
