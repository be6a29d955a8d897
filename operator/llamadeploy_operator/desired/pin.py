"""Which runtime a Deployment runs: the recorded one, until somebody asks for another."""

from __future__ import annotations

import re
from dataclasses import replace

from llamadeploy.spec.manifest import DeploymentManifestSpec
from llamadeploy_operator.desired.context import OperatorDefaults, Pin

TEMPLATE_REVISION = 1
"""Of the pod templates that this release writes. Whoever changes a template in a way that rolls
pods raises it, and keeps the former one for Deployments that are pinned to it."""


def choose_pin(
    spec: DeploymentManifestSpec, defaults: OperatorDefaults, recorded: Pin | None
) -> Pin:
    """The pin to build with, and to record.

    Args:
        recorded: from the Deployment's status; ``None`` for a new one.
    """
    fresh = _fresh(spec, defaults)
    if recorded is None:
        return fresh
    moved = recorded.version != spec.version or defaults.runtime_upgrade == "Auto"
    base = fresh if moved else recorded
    return replace(
        base,
        # What was not recorded (it was not needed, or by an older operator) is taken now.
        redis_image=recorded.redis_image or fresh.redis_image,
        rabbitmq_image=recorded.rabbitmq_image or fresh.rabbitmq_image,
        ui_image=base.ui_image or fresh.ui_image,
    )


def _fresh(spec: DeploymentManifestSpec, defaults: OperatorDefaults) -> Pin:
    prefix = defaults.image_prefix
    image = defaults.runtime_image
    if spec.version is not None:
        # A digest or tag goes; the colon of a registry's port is followed by a slash.
        image = f"{re.sub(r'@.*$|:[^/:@]*(@.*)?$', '', image)}:{spec.version}"
    return Pin(
        f"{prefix}{image}",
        TEMPLATE_REVISION,
        spec.version,
        f"{prefix}{defaults.redis_image}",
        f"{prefix}{defaults.rabbitmq_image}",
        f"{prefix}{defaults.ui_image}",
    )
