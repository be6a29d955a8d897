"""What should exist: pure functions of a context, one kind of child a file.

``deployment_children`` and ``service_children`` give everything that is applied and kept; what is
not among it, and is the owner's, is to be deleted. A builder gives a manifest, or ``None`` where
its child is not wanted.
"""

from llamadeploy_operator.desired.autoscaling import Autoscaled, autoscaled
from llamadeploy_operator.desired.children import (
    deployment_children,
    kept,
    needed,
    service_children,
)
from llamadeploy_operator.desired.consumed import consumed
from llamadeploy_operator.desired.context import (
    Capabilities,
    ChildKey,
    Consumed,
    DeploymentContext,
    LiveWorkload,
    Manifest,
    OperatorDefaults,
    Owner,
    Parent,
    Pin,
    Resolution,
    Scaled,
    ServiceContext,
)
from llamadeploy_operator.desired.internal import internal_keys, internal_secret, internal_value
from llamadeploy_operator.desired.notices import notices
from llamadeploy_operator.desired.pin import choose_pin
from llamadeploy_operator.desired.resolution import (
    BadResolutionError,
    NeededResolution,
    parse_resolution,
    read_resolution,
)
from llamadeploy_operator.desired.scaling import Scaling, scaling

__all__ = [
    "Autoscaled",
    "BadResolutionError",
    "Capabilities",
    "ChildKey",
    "Consumed",
    "DeploymentContext",
    "LiveWorkload",
    "Manifest",
    "NeededResolution",
    "OperatorDefaults",
    "Owner",
    "Parent",
    "Pin",
    "Resolution",
    "Scaled",
    "Scaling",
    "ServiceContext",
    "autoscaled",
    "choose_pin",
    "consumed",
    "deployment_children",
    "internal_keys",
    "internal_secret",
    "internal_value",
    "kept",
    "needed",
    "notices",
    "parse_resolution",
    "read_resolution",
    "scaling",
    "service_children",
]
